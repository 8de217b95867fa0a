"""Two boxes with a fleet each, worked on from a third that has none: shown together, changed one after the other."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.fleets import ECHO_TWO
from support.netns import network_of
from support.reachable import show_checkout
from support.sandbox import Box, wait_for
from support.two_boxes import ONE, TWO, Pair, pair

BOTH = ("--all", "--inventory", "/run/boxes")
NOBODY = "192.0.2.9"


@pytest.fixture(scope="module")
def boxes() -> Iterator[Pair]:
    with pair(ECHO_TWO) as made:
        show_checkout(made.clients)
        made.clients.run("sh", "-c", "cat > /run/boxes", text=f"{ONE}  # the first\n{TWO}\n")
        yield made


def work(boxes: Pair, *words: str) -> subprocess.CompletedProcess[str]:
    return boxes.portfleet(boxes.clients, *words, check=False)


def live(boxes: Pair) -> dict[str, str]:
    """Return which colour is live on each box."""
    found = json.loads(work(boxes, "status", *BOTH, "--json").stdout)
    return {box["box"]: box["services"][0]["live"] for box in found["boxes"]}


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found = json.loads(done.stdout)
    return {row["box"]: row["result"] for row in found["boxes"]}


def test_all_boxes_are_shown_with_one_that_does_not_answer(boxes: Pair) -> None:
    done = work(boxes, "status", *BOTH)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2/2") == 2 and "2 of 2 boxes answer" in done.stdout

    done = work(boxes, "status", "--box", ONE, "--box", NOBODY, "--patience", "5s")

    assert done.returncode == 1
    assert f"1 of 2 boxes answer; not: {NOBODY}" in done.stdout


@pytest.mark.long
def test_all_boxes_are_cut_over_and_rolled_back_one_after_the_other(boxes: Pair) -> None:
    before = live(boxes)

    done = work(boxes, "cutover", "echo", *BOTH, "--force", "--why", "a test", "--json")

    assert done.returncode == 0, done.stderr
    assert rows(done) == {ONE: "done", TWO: "done"}
    assert all(live(boxes)[box] != colour for box, colour in before.items())
    said = boxes.portfleet(boxes.two, "history").stdout
    assert "a test" in said
    done = work(boxes, "rollback", "echo", *BOTH, "--keep", "0")
    assert done.returncode == 0 and done.stdout.count("done") == 2, done.stderr
    assert live(boxes) == before


@pytest.mark.long
def test_it_stops_in_the_middle_and_its_hints_go_back_and_on(boxes: Pair) -> None:
    before = live(boxes)
    with taken(boxes, boxes.two):
        done = work(boxes, "cutover", "echo", *BOTH, "--force")

        assert done.returncode not in (0, 5), done.stderr
        assert live(boxes)[TWO] == before[TWO] and live(boxes)[ONE] != before[ONE]
        assert f"stopped at {TWO}" in done.stderr and f"Done before: {ONE}" in done.stderr
        back = hint(done.stderr, "to go back: ")
        assert work(boxes, *back[1:]).returncode == 0
        assert live(boxes) == before

    on = hint(done.stderr, "to go on when that is put right: ")
    assert work(boxes, *on[1:]).returncode == 0
    assert all(live(boxes)[box] != colour for box, colour in before.items())


@pytest.mark.long
def test_it_is_refused_before_the_first_step(boxes: Pair) -> None:
    before = live(boxes)
    done = work(boxes, "cutover", "echo", "--force", "--box", ONE, "--box", NOBODY)
    assert done.returncode == 1 and "nothing was done" in done.stderr and NOBODY in done.stderr
    canary = ("--canary", "50%", "--every", "10m")  # one that lasts
    boxes.portfleet(boxes.two, "cutover", "echo", "--force", *canary, "--no-wait")

    done = work(boxes, "cutover", "echo", *BOTH, "--force")

    assert done.returncode == 5 and f"{TWO}: cutover is at work on echo" in done.stderr, done.stderr
    boxes.portfleet(boxes.two, "cancel", "echo")
    assert live(boxes) == before


def test_a_box_is_drained(boxes: Pair) -> None:
    done = work(boxes, "drain", "echo/2", "--box", TWO, "--deadline", "0")
    assert done.returncode == 0, done.stderr
    assert "already" in work(boxes, "drain", "echo/2", "--box", TWO, "--json").stdout
    assert work(boxes, "drain", "--box", TWO).returncode == 1, "no instance would be left"
    boxes.portfleet(boxes.two, "undrain", "echo")
    assert work(boxes, "status", *BOTH, "-q").returncode == 0


def hint(said: str, before: str) -> list[str]:
    """Return the words of the command that a hint names."""
    (line,) = [line for line in said.splitlines() if before in line]
    return shlex.split(line.partition(before)[2])


@contextmanager
def taken(boxes: Pair, box: Box) -> Iterator[None]:
    """Hold a port on ``box`` of the colour that does not run, so that it cannot be started."""

    def stopped() -> list[int]:
        found = json.loads(boxes.portfleet(box, "status", "--json").stdout)["services"][0]["instances"]
        return [one["port"] for one in found if one["state"] == "stopped"]

    wait_for("a colour does not run", stopped)
    with network_of(box), socket.create_server(("", stopped()[0])):
        yield
