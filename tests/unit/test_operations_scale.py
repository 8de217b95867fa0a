"""scale: new instances get their slots when they are ready; those too many give theirs and their connections away."""

from __future__ import annotations

from pathlib import Path

import pytest

from portfleet.core.errors import Exit, PortfleetError
from support.fake_kills import Make, cancelled_at, killed_at_each, same, undisturbed
from support.fake_operated import REDIS, Box

ALL, TWO = "blue-1 86, blue-2 85, blue-3 85", "blue-1 128, blue-2 128"
UP, DOWN = ("scale", "echo", "4"), ("scale", "echo", "2")


def test_more_have_rules_and_a_process_and_are_ready_before_they_get_slots(box: Box) -> None:
    done = box.operate(*UP)
    assert box.log == [
        "[starting]", "rules of blue-4", "rules of green-4", "start blue-4",
        "slots blue-1 64, blue-2 64, blue-3 64, blue-4 64",
    ]  # fmt: skip
    assert done.outcome == "blue serves with 4 instances" and box.connections() == {
        "blue-1": 5,
        "blue-2": 7,
        "blue-3": 3,
    }


def test_fewer_give_slots_then_connections_then_process_and_rules_away(box: Box) -> None:
    done = box.operate(*DOWN)
    assert box.log == [
        f"slots {TWO}", "[moving]", "1 from blue-3 to blue-1", "2 from blue-3 to blue-2", "[stopping]", "[stopping]",
        "end blue-3", "no rules of blue-3", "no rules of green-3",
    ]  # fmt: skip
    assert done.outcome == "blue serves with 2 instances; 3 connections were handed off, 0 ended"
    assert box.lost == {} and not (box.paths.programs / "echo-blue-3.conf").exists()
    assert box.journal.services["echo"].leaving == 0


def test_without_hand_off_connections_drain_by_the_services_policy(box: Box) -> None:
    done = box.operate(*DOWN, "--drain")
    assert done.outcome.endswith("0 connections were handed off, 0 ended, 3 were closed") and box.daemons.ended == 3


def test_there_and_back_the_same_slots(box: Box) -> None:
    box.operate(*UP)
    box.operate("scale", "echo", "3")
    assert box.slots() == ALL


def test_one_that_does_not_become_ready_undoes_it(box: Box) -> None:
    box.fake.doomed = {"echo-blue-4"}
    done = box.operate("scale", "echo", "5")
    assert (done.ok, done.code) == (False, Exit.TIMEOUT)
    assert done.outcome == "did not become ready: echo-blue-4: doomed; 3 instances serve as before"
    assert box.slots() == ALL and box.processes() == "blue-1, blue-2, blue-3" and box.lost == {}
    assert "echo-blue-4" not in box.kernel.observe().instances


@pytest.mark.parametrize(
    ("words", "out", "said"),
    [
        (("scale", "echo", "0"), (), "can have 1 to 5"),
        (("scale", "echo", "6"), (), "can have 1 to 5"),
        (("scale", "echo", "1"), ("blue-1",), "its first 1 are drained or out"),
    ],
)
def test_refused_it_changes_nothing(box: Box, words: tuple[str, ...], out: tuple[str, ...], said: str) -> None:
    box.eject(*out)
    before = box.journal
    with pytest.raises(PortfleetError, match=said):
        box.command(*words)
    assert box.journal == before and box.slots() == ALL


def test_that_number_already(box: Box) -> None:
    assert "already has 3 instances" in box.command("scale", "echo", "3")


@pytest.mark.parametrize("words", [UP, DOWN, (*DOWN, "--drain")])
def test_killed_at_any_point_it_is_resumed(again: Make, words: tuple[str, ...]) -> None:
    whole, seen = undisturbed(again, *words), []
    for point, box, done in killed_at_each(again, *words):
        assert done.ok and "resumed at" in done.outcome and same(box, whole) and box.lost == {}, (point, done)
        seen.append(point.removeprefix("scale "))
    assert seen == (["starting"] if words == UP else ["moving", "stopping", "stopping", "stopping: changed"])


def test_cancelled_when_all_has_gone_it_starts_them_again(again: Make) -> None:
    box, done = cancelled_at(again, "scale stopping: changed", *DOWN)
    assert done.outcome == "cancelled; 3 instances serve as before"
    assert (box.slots(), box.processes(), box.lost) == (ALL, "blue-1, blue-2, blue-3", {})


@pytest.mark.parametrize(("point", "words"), [("scale starting", UP), ("scale moving", (*DOWN, "--drain"))])
def test_cancelled_it_is_as_before(again: Make, point: str, words: tuple[str, ...]) -> None:
    def slow() -> Box:
        box = again()
        box.fake.slow["echo-blue-4"] = 10
        return box

    box, done = cancelled_at(slow, point, *words)
    assert done.outcome == "cancelled; 3 instances serve as before"
    assert (box.slots(), box.processes(), box.lost) == (ALL, "blue-1, blue-2, blue-3", {})
    assert box.connections() == {"blue-1": 5, "blue-2": 7, "blue-3": 3}


def test_both_colours_end_with_the_number(box: Box) -> None:
    box.operate("cutover", "echo", "--release", "v2")
    box.operate(*DOWN)
    assert box.processes() == "blue-1, blue-2, green-1, green-2" and box.lost == {}


def test_a_daemon_that_cannot_hand_off_drains(directory: Path) -> None:
    box = Box(directory, REDIS, blue_3=9)
    assert box.operate(*DOWN).outcome.endswith("0 ended, 9 were reset") and box.lost == {}
