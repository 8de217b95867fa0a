"""drain and maint: slots at once, then connections, then the process; and back again, wherever it is given up."""

from __future__ import annotations

from pathlib import Path

import pytest

from portfleet.core.changes import Route
from portfleet.core.errors import Exit, PortfleetError
from support.fake_kills import Make, cancelled_at, killed_at_each, same, undisturbed
from support.fake_operated import REDIS, Box

BEFORE = "blue-1 86, blue-2 85, blue-3 85"
WITHOUT = "blue-1 128, blue-3 128"
HANDOFF = ("drain", "echo/2", "--handoff")


def test_a_drain_by_hand_off(box: Box) -> None:
    done = box.operate(*HANDOFF)
    assert box.log == [
        f"slots {WITHOUT}", "[moving]", "3 from blue-2 to blue-1", "4 from blue-2 to blue-3", "[ending]", "[stopping]",
    ]  # fmt: skip
    assert done.outcome == "echo-blue-2 drained: 7 connections handed off, 0 ended"
    assert box.connections() == {"blue-1": 8, "blue-3": 7} and box.wanted() == {"blue-2": "drained"}
    assert "blue-2" in box.processes()


def test_slots_are_away_when_the_command_returns(box: Box) -> None:
    box.command(*HANDOFF)
    assert box.slots() == WITHOUT and box.connections()["blue-2"] == 7


def test_maint_stops_the_process_when_it_is_empty(box: Box) -> None:
    done = box.operate("maint", "echo/2", "--handoff")
    assert box.log[-2:] == ["[stopping]", "end blue-2"] and box.lost == {}
    assert done.outcome == "echo-blue-2 in maintenance: 7 connections handed off, 0 ended"
    assert not (box.paths.programs / "echo-blue-2.conf").exists()


def test_what_comes_while_it_is_emptied_is_handed_off_too(box: Box) -> None:
    box.daemons.arriving["echo-blue-2"] = 5
    done = box.operate("maint", "echo/2", "--handoff")
    assert "12 connections handed off" in done.outcome and box.lost == {}


def test_what_comes_while_the_process_ends_is_handed_off_too(box: Box) -> None:
    box.supervisor.stubborn["echo-blue-2"] = 1

    def at(name: str) -> None:
        if name == "maint stopping":
            box.daemons.connections["echo-blue-2"] = 2

    box.at = at
    box.operate("maint", "echo/2", "--handoff")
    assert box.log[-3:] == ["1 from blue-2 to blue-1", "1 from blue-2 to blue-3", "end blue-2"] and box.lost == {}


def test_connections_may_finish_until_the_deadline_and_are_evicted_then(box: Box) -> None:
    done = box.operate("drain", "echo/2", "--deadline", "30s", "--then", "evict")
    assert box.log == [f"slots {WITHOUT}", "[moving]", "[ending]", "evict blue-2 10", "resume blue-2", "[stopping]"]
    assert done.outcome == "echo-blue-2 drained: 0 connections handed off, 0 ended, 7 were closed"
    assert box.daemons.ended == 7
    assert 30.5 < box.clock.slept < 32


@pytest.mark.parametrize(("rate", "seconds"), [("1", 7), ("7/s", 1)])
def test_connections_are_evicted_at_the_rate(box: Box, rate: str, seconds: float) -> None:
    box.operate("drain", "echo/2", "--rate", rate)
    assert seconds <= box.clock.slept < seconds + 1


def test_a_daemon_that_hangs_at_the_deadline_is_killed_and_that_is_said(box: Box) -> None:
    box.daemons.silent.add("echo-blue-2")
    done = box.operate("drain", "echo/2", "--deadline", "5s", "--then", "kill")
    assert box.log[-3:] == ["end blue-2 by SIGKILL", "resume blue-2", "[stopping]"]
    assert done.outcome.endswith("; echo-blue-2 did not answer and was ended by SIGKILL")


def test_connections_of_a_daemon_without_a_control_socket_are_reset_at_the_rate(directory: Path) -> None:
    box = Box(directory, REDIS, blue_1=5, blue_2=20)
    box.operate("drain", "echo/2", "--rate", "10")
    assert box.daemons.ended == 20 and 1.7 <= box.clock.slept < 2.6


def test_what_nobody_takes_stays_and_drains(box: Box) -> None:
    box.daemons.refusing = {"echo-blue-1": "no room", "echo-blue-3": "no room"}
    done = box.operate(*HANDOFF, "--deadline", "10s", "--then", "kill")
    assert done.outcome == (
        "echo-blue-2 drained: 0 connections were handed off, 7 could not be (no room), 0 ended, 7 were closed"
    )  # fmt: skip


def test_one_that_got_its_slots_back_as_no_other_serves_is_not_stopped(box: Box) -> None:
    def at(name: str) -> None:
        if name == "maint stopping":
            box.at = lambda _: None
            rule = box.kernel.observe().services["echo"]
            assert rule is not None
            box.kernel.run((Route(rule, ("echo-blue-2",) * 256, {}),))

    box.at = at
    done = box.operate("maint", "echo/2", "--handoff")
    assert not done.ok and "echo-blue-2 goes on running: no other instance serves its clients now" in done.outcome
    assert box.processes() == "blue-1, blue-2, blue-3" and box.slots() == "blue-1 86, blue-2 85, blue-3 85"


def test_an_earlier_hand_off_that_is_under_way_is_waited_for(box: Box) -> None:
    box.daemons.busy["echo-blue-2"] = 60
    assert "7 connections handed off" in box.operate(*HANDOFF).outcome
    assert box.clock.slept > 5, "longer than one that moves nothing is waited for"


@pytest.mark.parametrize("words", [HANDOFF, ("maint", "echo/2", "--handoff"), ("maint", "echo/2", "--rate", "5")])
def test_killed_at_any_point_it_is_resumed_and_loses_nothing(again: Make, words: tuple[str, ...]) -> None:
    whole, seen = undisturbed(again, *words), []
    for point, box, done in killed_at_each(again, *words):
        assert done.ok and "resumed at" in done.outcome, (point, done)
        assert same(box, whole) and box.lost == {}, (point, box.log)
        seen.append(point.partition(" ")[2])
    assert seen == ["moving", "ending", "stopping"]


@pytest.mark.parametrize("point", ["drain moving", "drain ending"])
def test_cancelled_it_serves_again(again: Make, point: str) -> None:
    box, done = cancelled_at(again, point, "drain", "echo/2")
    assert done.outcome == "cancelled; echo-blue-2 serves again" and not done.ok and not done.stays
    assert (box.slots(), box.wanted(), box.lost, box.connections()["blue-2"]) == (BEFORE, {}, {}, 7)


def test_a_maint_that_is_cancelled_while_the_process_ends_starts_it_again(again: Make) -> None:
    box, done = cancelled_at(again, "maint stopping", "maint", "echo/2", "--handoff")
    assert done.outcome == "cancelled; echo-blue-2 serves again" and not done.ok
    assert box.processes() == "blue-1, blue-2, blue-3" and box.slots() == BEFORE and box.lost == {}


def test_an_undrain_that_comes_while_the_process_ends_starts_it_again(box: Box) -> None:
    def at(name: str) -> None:
        if name == "maint stopping":
            box.at = lambda _: None
            box.command("undrain", "echo/2", "--no-wait")

    box.command("maint", "echo/2", "--handoff", "--no-wait")
    box.at = at
    box.finish()
    assert (box.slots(), box.wanted()) == (BEFORE, {}) and "blue-2" in box.processes()


def test_cancelled_goes_back_to_what_was_asked_before(box: Box) -> None:
    box.operate(*HANDOFF)
    box.command("maint", "echo/2", "--rate", "1")
    box.daemons.connections["echo-blue-2"] = 30

    def at(name: str) -> None:
        if name == "maint ending":
            box.at = lambda _: None
            box.command("cancel", "echo")

    box.at = at
    assert box.finish().outcome == "cancelled; echo-blue-2 is drained as before"
    assert box.wanted() == {"blue-2": "drained"} and box.slots() == WITHOUT


def test_an_undrain_ends_a_drain_that_runs(box: Box) -> None:
    box.command("drain", "echo/2")
    box.command("undrain", "echo/2")
    assert box.finish().outcome == "cancelled; echo-blue-2 serves again" and box.slots() == BEFORE


@pytest.mark.parametrize(
    ("words", "out", "said", "code"),
    [
        (("drain", "echo"), (), "this would leave echo with no serving instance", Exit.FAILED),
        (("drain", "echo", "--handoff", "--force"), (), "this would leave no instance to take", Exit.USAGE),
        (("drain", "echo/7"), (), "has no instance '7'", Exit.USAGE),
        (("drain", "echo/2"), ("blue-1", "blue-3"), "out: ", Exit.FAILED),
    ],
)
def test_refused_it_changes_nothing(
    box: Box, words: tuple[str, ...], out: tuple[str, ...], said: str, code: Exit
) -> None:
    box.eject(*out)
    before = box.journal
    with pytest.raises(PortfleetError, match=said) as refused:
        box.command(*words)
    assert refused.value.code is code and box.journal == before and box.slots() == BEFORE


def test_a_daemon_that_cannot_hand_off_is_not_asked_to(directory: Path) -> None:
    box = Box(directory, REDIS)
    with pytest.raises(PortfleetError, match="cannot hand off"):
        box.command(*HANDOFF)


def test_what_the_data_plane_refuses_is_not_begun(box: Box) -> None:
    box.kernel.refuses, before = 1, box.journal
    with pytest.raises(PortfleetError) as refused:
        box.command(*HANDOFF)
    assert refused.value.code is Exit.KERNEL and box.journal == before


def test_all_of_a_service_can_be_drained_by_force(box: Box) -> None:
    box.operate("drain", "echo", "--force", "--deadline", "0", "--then", "kill")
    assert box.slots() == "nowhere" and box.connections() == {}
    assert box.operate("undrain", "echo").ok and box.slots() == BEFORE
