"""undrain: what was stopped is started, evictions end, and slots come back when the instance is ready."""

from __future__ import annotations

from dataclasses import replace

import pytest

from portfleet.core.errors import Exit
from support.fake_kills import Make, cancelled_at, killed_at_each, same, undisturbed
from support.fake_operated import Box

ALL = "blue-1 86, blue-2 85, blue-3 85"
WORDS = ("undrain", "echo/2")


@pytest.fixture
def drained(again: Make) -> Make:
    """Return what makes a box whose second instance is in maintenance."""

    def make() -> Box:
        box = again()
        box.operate("maint", "echo/2", "--handoff")
        box.log.clear()
        return box

    return make


def test_a_drained_one_gets_its_slots_back_and_no_connection(box: Box) -> None:
    box.operate("drain", "echo/2", "--handoff")
    box.log.clear()
    done = box.operate(*WORDS)
    assert box.log == ["[starting]", "resume blue-2", f"slots {ALL}"] and done.outcome == "echo-blue-2 serves"
    assert "blue-2" not in box.connections() and box.wanted() == {}


def test_one_in_maintenance_is_started_first(drained: Make) -> None:
    box = drained()
    box.operate(*WORDS)
    assert box.log == ["[starting]", "start blue-2", f"slots {ALL}"]


def test_the_slots_stay_where_they_are_when_the_command_returns(drained: Make) -> None:
    box = drained()
    box.command(*WORDS)
    assert box.slots() == "blue-1 128, blue-3 128" and box.journal.operations[0].owned == ("echo-blue-2",)


def test_one_that_does_not_become_ready_is_told_and_let_in_later(drained: Make) -> None:
    box = drained()
    box.fake.doomed = {"echo-blue-2"}
    done = box.operate(*WORDS)
    assert (done.ok, done.code, done.stays) == (False, Exit.TIMEOUT, False)
    assert done.outcome == "echo-blue-2: doomed; it serves as soon as it is ready"
    assert box.slots() == "blue-1 128, blue-3 128" and box.wanted() == {}


def test_repeated_it_is_done_already(box: Box) -> None:
    assert "already serves" in box.command(*WORDS)
    assert box.journal.operations == ()


def test_a_daemon_that_hangs_is_let_in_as_before(box: Box) -> None:
    box.operate("drain", "echo/2", "--handoff")
    box.daemons.silent.add("echo-blue-2")
    assert box.operate(*WORDS).ok and box.slots() == ALL


def test_cancelled_in_the_middle_of_its_slots_it_gets_the_others_too(box: Box) -> None:
    box.operate("drain", "echo/2", "--handoff")
    box.kernel.traits = replace(box.kernel.traits, slots_unnoticed=33)

    def at(name: str) -> None:
        if name == "undrain starting: some slots":
            box.at = lambda _: None
            box.command("cancel", "echo")

    box.at = at
    assert box.operate(*WORDS).outcome == "cancelled; it serves as soon as it is ready" and box.slots() == ALL


def test_killed_at_any_point_it_is_resumed(drained: Make) -> None:
    whole, seen = undisturbed(drained, *WORDS), []
    for point, box, done in killed_at_each(drained, *WORDS):
        assert done.ok and "resumed at" in done.outcome and same(box, whole) and box.lost == {}, (point, done)
        seen.append(point)
    assert seen == ["undrain starting"]


def test_cancelled_it_goes_on_serving(drained: Make) -> None:
    def slow() -> Box:
        box = drained()
        box.fake.slow["echo-blue-2"] = 10
        return box

    box, done = cancelled_at(slow, "undrain starting", *WORDS)
    assert done.outcome == "cancelled; it serves as soon as it is ready" and box.wanted() == {}
