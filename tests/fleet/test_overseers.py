"""The watcher or supervisord is gone, stopped or hangs: that is the first thing anyone is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fleet_box import HOME, PORTFLEET, FleetBox, fleet_box
from support.sandbox import client4, wait_for
from support.watched import NAMED, QUICK, pid_of, signal, wait_event

#: Each verb that is an operation, as it is typed.
OPERATIONS = (
    ("drain", "echo/2"),
    ("undrain", "echo/2"),
    ("maint", "echo/2"),
    ("migrate", "echo/2", "3"),
    ("scale", "echo", "3"),
    ("cutover", "echo", "--release", "v2"),
    ("rollback", "echo"),
    ("restart", "echo"),
    ("rebalance", "echo"),
    ("cancel", "echo"),
)


@pytest.fixture(scope="module")
def box() -> Iterator[FleetBox]:
    """One fleet for all: each test leaves it whole."""
    with fleet_box(NAMED + QUICK) as made:
        yield made
        assert made.look().returncode == 0


def first_line(box: FleetBox, *words: str) -> str:
    """Return the first line that a verb prints, to either stream."""
    done = box.portfleet(*words, check=False)
    return (done.stderr + done.stdout).splitlines()[0]


def test_all_is_well(box: FleetBox) -> None:
    wait_for("all serve", lambda: box.look().returncode == 0)
    quiet = box.look("--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    found = json.loads(box.look("--json").stdout)
    assert found["watcher"]["state"] == found["supervisord"]["state"] == "running"
    assert found["services"][0]["not_serving"] == []
    doctor = json.loads(box.portfleet("doctor", "--json", check=False).stdout)["findings"]
    assert [(one["about"], one["severity"]) for one in doctor[:2]] == [("watcher", "fine"), ("supervisord", "fine")]


def test_a_stopped_watcher_is_the_first_thing_that_is_said(box: FleetBox) -> None:
    pid = pid_of(box, "portfleet-watch")
    words = f"the watcher (pid {pid}) was stopped by a signal: "
    signal(box, pid, "STOP")
    try:
        said = box.look()
        assert said.returncode == 8
        assert said.stdout.startswith(words) and said.stdout.splitlines()[1] == f"  hint: kill -CONT {pid}"
        assert "echo-blue-4  serving  ready" in said.stdout
        quiet = box.look("-q")
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (8, "", "")
        assert json.loads(box.look("--json").stdout)["watcher"] | {"trouble": "", "hint": ""} == {
            "state": "suspended", "pid": pid, "trouble": "", "hint": "",
        }  # fmt: skip
        doctor = box.portfleet("doctor", check=False)
        assert doctor.returncode == 1
        assert doctor.stdout.startswith(f"broken   watcher: {words[:-2]}\n")
    finally:
        signal(box, pid, "CONT")
    wait_for("all serve", lambda: box.look().returncode == 0)


@pytest.mark.long
def test_no_operation_begins_with_a_stopped_watcher_and_others_say_so_first(box: FleetBox) -> None:
    pid = pid_of(box, "portfleet-watch")
    words = f"portfleet: the watcher (pid {pid}) was stopped by a signal: "
    box.calm()
    before = box.files()
    signal(box, pid, "STOP")
    try:
        for operation in OPERATIONS:
            refused = box.portfleet(*operation, check=False)
            assert (refused.returncode, refused.stdout) == (1, ""), operation
            assert refused.stderr.startswith(words) and f"hint: kill -CONT {pid}" in refused.stderr, operation
        assert box.files() == before
        dry = box.portfleet("drain", "echo/2", "--dry-run")
        assert dry.stderr.startswith(words) and dry.stdout.startswith("would drain echo-blue-2")
        for verb in (("plan",), ("pin", "echo", client4(7), "2"), ("unpin", "echo", client4(7))):
            assert box.portfleet(*verb).stderr.startswith(words), verb
        applied = box.portfleet("apply", check=False)
        assert applied.returncode == 4 and applied.stderr.startswith(words)
        assert "echo: 4 instances serving; without a watcher" in applied.stdout
    finally:
        signal(box, pid, "CONT")
    box.calm()


@pytest.mark.long
def test_who_follows_an_operation_is_told_when_the_watcher_stops(box: FleetBox) -> None:
    pid = pid_of(box, "portfleet-watch")
    begun = json.loads(box.portfleet("restart", "echo/1", "--no-wait", "--json").stdout)
    signal(box, pid, "STOP")
    follower = box.boxes.host.popen(
        *("sh", "-c", f"exec {PORTFLEET} --home {HOME} history --follow {begun['number']} 2>&1")
    )
    try:
        assert follower.stdout is not None
        line = next(line for line in follower.stdout if "was stopped by a signal" in line)
        assert "the operation goes on when it is back" in line
    finally:
        signal(box, pid, "CONT")
        assert follower.wait(60) == 0
    wait_for("all serve", lambda: box.look().returncode == 0)


@pytest.mark.long
def test_no_watcher_at_all_and_up_brings_it_back(box: FleetBox) -> None:
    ctl = str(Path(PORTFLEET).with_name("supervisorctl"))
    box.boxes.host.run(ctl, "-c", f"{HOME}/lib/supervisord.conf", "stop", "portfleet-watch")
    said = box.look()
    assert said.returncode == 8
    assert said.stdout.startswith("the watcher is not running: ")
    assert said.stdout.splitlines()[1] == "  hint: portfleet up"
    assert first_line(box, "drain", "echo/2").startswith("portfleet: the watcher is not running: ")
    up = box.portfleet("up")
    assert up.stderr.startswith("[1/1] start the watcher"), up.stderr
    wait_for("all serve", lambda: box.look().returncode == 0)


@pytest.mark.long
def test_a_stopped_supervisord_is_told_beside_what_can_be_seen(box: FleetBox) -> None:
    pid, before = pid_of(box, "supervisord"), box.status()
    noted = ("grep", "-q", "echo-blue-4", f"{HOME}/lib/processes.json")
    wait_for("the watcher has noted them", lambda: box.boxes.host.run(*noted, check=False).returncode == 0)
    words = f"supervisord (pid {pid}) was stopped by a signal: an instance that ends is not started again"
    signal(box, pid, "STOP")
    try:
        said = box.look()
        assert said.returncode == 8
        assert said.stdout.startswith(f"{words}\n  hint: kill -CONT {pid}\n")
        found = box.status()
        for name in before:
            for key in ("state", "pid", "slots", "adopted"):
                assert found[name][key] == before[name][key], (name, key)
        for verb in (("plan",), ("apply",), ("up",), ("down",), ("restart", "echo"), ("scale", "echo", "3")):
            refused = box.portfleet(*verb, check=False)
            assert (refused.returncode, refused.stdout) == (1, ""), verb
            assert refused.stderr == f"portfleet: {words}\nhint: kill -CONT {pid}\n", verb
        assert box.portfleet("doctor", check=False).stdout.splitlines()[1].startswith("broken   supervisord: ")
        watcher = pid_of_watcher(box)
        signal(box, watcher, "STOP")
        try:
            first, _, third, *_ = box.look().stdout.splitlines()
            assert first.startswith("the watcher (") and third.startswith("supervisord (")
        finally:
            signal(box, watcher, "CONT")
    finally:
        signal(box, pid, "CONT")
    wait_for("all serve", lambda: box.look().returncode == 0)


def pid_of_watcher(box: FleetBox) -> int:
    """Return the watcher's process without supervisord's help."""
    return next(pid for pid, words in box.processes().items() if " watch " in words and "portfleet" in words)


@pytest.mark.long
def test_one_that_hangs_and_a_fleet_that_is_down() -> None:
    with fleet_box(NAMED.replace("instances = 4", "instances = 2") + QUICK) as box:
        hung = box.status()["echo-blue-1"]["pid"]
        signal(box, hung, "STOP")
        wait_event(box, "ejected", instance="echo-blue-1")
        assert box.look("-q").returncode == 7
        assert json.loads(box.look("--json").stdout)["services"][0]["not_serving"] == ["echo-blue-1"]
        signal(box, hung, "CONT")
        wait_for("both serve", lambda: box.look("-q").returncode == 0)
        box.portfleet("down", "--yes")
        said = box.look()
        assert said.returncode == 9
        assert said.stdout.startswith("neither supervisord nor the watcher is running: ")
        assert "no instance serves echo" in said.stdout


@pytest.mark.long
def test_up_says_that_the_watcher_does_not_start() -> None:
    with fleet_box() as box:
        box.write(NAMED)
        box.boxes.host.run("mkdir", "-p", f"{HOME}/run/watch.sock")  # in the way of its socket
        up = box.portfleet("up", check=False)
        assert up.returncode == 4
        assert up.stdout.startswith("the watcher is not running: no instance is ejected"), up.stdout
        assert "see: portfleet logs portfleet-watch" in up.stdout
        assert "echo: 4 instances serving; without a watcher" in up.stdout
        box.boxes.host.run("rmdir", f"{HOME}/run/watch.sock")
        box.portfleet("up")
        wait_for("all serve", lambda: box.look().returncode == 0)
