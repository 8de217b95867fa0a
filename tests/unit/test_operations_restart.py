"""restart: one after the other gives slots and connections away, restarts, and takes its slots again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from portfleet.core.errors import Exit, PortfleetError
from support.fake_kills import Make, cancelled_at, killed_at_each, same, undisturbed
from support.fake_operated import REDIS, Box

ALL = "blue-1 86, blue-2 85, blue-3 85"
WORDS = ("restart", "echo")


def test_each_gives_away_restarts_and_takes_its_slots_again(box: Box) -> None:
    before = dict(box.supervisor.running_names())
    done = box.operate("restart", "echo/1")
    assert box.log == [
        "[restarting echo-blue-1]",
        "slots blue-2 128, blue-3 128",
        "2 from blue-1 to blue-2",
        "3 from blue-1 to blue-3",
        "end blue-1",
        "start blue-1",
        f"slots {ALL}",
        "[evening out]",
        "4 from blue-2 to blue-1",
    ]
    assert done.outcome.startswith("echo-blue-1 restarted; max/mean 1.80 → 1.20")
    changed = {name for name, pid in box.supervisor.running_names().items() if before[name] != pid}
    assert changed == {"echo-blue-1"} and box.lost == {} and box.wanted() == {}


@pytest.mark.parametrize(("times", "done"), [(1, True), (7, False)])
def test_a_part_of_the_slots_that_the_kernel_refuses_has_nothing_restarted_again(
    box: Box, times: int, done: bool
) -> None:
    box.kernel.traits = replace(box.kernel.traits, slots_unnoticed=33)

    def at(name: str) -> None:
        if name.endswith("some slots") and "start blue-1" in box.log:
            box.at = lambda _: None
            box.kernel.refuses = times

    box.at = at
    assert box.operate("restart", "echo/1").ok is done and box.slots() == ALL
    assert box.log.count("end blue-1") == 1 and box.clock.slept < 8


def test_they_go_one_after_the_other_or_so_many_at_a_time(box: Box) -> None:
    box.operate(*WORDS)
    assert [entry for entry in box.log if entry.startswith("[")] == [
        "[restarting echo-blue-1]", "[restarting echo-blue-2]", "[restarting echo-blue-3]", "[evening out]",
    ]  # fmt: skip
    box.log.clear()
    box.operate(*WORDS, "--max-unavailable", "2")
    assert [entry for entry in box.log if entry.startswith("[")] == [
        "[restarting echo-blue-1, echo-blue-2]", "[restarting echo-blue-3]", "[evening out]",
    ]  # fmt: skip
    assert box.lost == {}


def test_a_daemon_that_cannot_hand_off_drains_by_the_services_policy(directory: Path) -> None:
    box = Box(directory, REDIS, blue_1=5)
    assert box.operate("restart", "echo/1").outcome == "echo-blue-1 restarted; 5 connections were reset"
    assert box.daemons.ended == 5 and box.lost == {}


def test_without_a_rate_none_is_closed_and_the_rolling_stops_at_the_deadline(tmp_path: Path) -> None:
    box = Box(tmp_path, REDIS.replace("rate = 10\n", ""), blue_1=5)
    done = box.operate("restart", "echo/1")
    assert not done.ok and 60 <= box.clock.slept < 65
    assert done.outcome.startswith(
        "stopped rolling, no connection was closed: echo-blue-1: 0 ended, 5 are left after 60 s; to reset them: "
        "portfleet restart echo/echo-blue-1 --rate 500; "
    ), done.outcome
    assert box.connections() == {"blue-1": 5} and box.lost == {}


def test_with_a_rate_they_are_reset_and_counted(tmp_path: Path) -> None:
    box = Box(tmp_path, REDIS.replace("rate = 10\n", ""), blue_1=5)
    done = box.operate("restart", "echo/1", "--rate", "500")
    assert done.ok and done.outcome == "echo-blue-1 restarted; 5 connections were reset" and box.lost == {}


def test_one_that_does_not_come_back_stops_it_and_nobody_stays_drained(box: Box) -> None:
    box.fake.doomed = {"echo-blue-2"}
    done = box.operate(*WORDS)
    assert (done.ok, done.code, done.stays) == (False, Exit.TIMEOUT, False)
    assert done.outcome == (
        "stopped rolling: echo-blue-2: doomed; restarted: echo-blue-1; the others serve, the watcher goes on trying "
        "echo-blue-2: doomed"
    )
    assert box.wanted() == {} and box.slots() == "blue-1 128, blue-3 128" and box.lost == {}
    assert "start blue-3" not in box.log


def test_a_sibling_that_takes_no_connections_stops_it_before_anybody_is_disconnected(box: Box) -> None:
    box.daemons.refusing = {"echo-blue-2": "no room", "echo-blue-3": "no room"}
    done = box.operate(*WORDS)
    assert done.outcome.startswith("stopped rolling, no connection was lost: 0 connections were handed off, 5 could")
    assert box.connections() == {"blue-1": 5, "blue-2": 7, "blue-3": 3} and box.slots() == ALL


def test_one_whose_siblings_have_gone_out_meanwhile_is_not_stopped(box: Box) -> None:
    box.command("restart", "echo/1")
    box.eject("blue-2", "blue-3")
    done = box.finish()
    assert "no other instance can serve the clients of echo-blue-1 now" in done.outcome and "end blue-1" not in box.log
    assert box.wanted() == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("restart", "echo", "--max-unavailable", "3"), "would leave none"),
        (("restart", "echo", "--max-unavailable", "0"), "would leave none"),
    ],
)
def test_refused_it_changes_nothing(box: Box, words: tuple[str, ...], said: str) -> None:
    before = box.journal
    with pytest.raises(PortfleetError, match=said):
        box.command(*words)
    assert box.journal == before


def test_one_in_maintenance_has_no_process_to_restart(box: Box) -> None:
    box.operate("maint", "echo/2", "--handoff")
    with pytest.raises(PortfleetError, match="no process to restart"):
        box.command("restart", "echo/2")
    assert box.operate(*WORDS).outcome.startswith("echo-blue-1, echo-blue-3 restarted")


def test_a_drained_one_stays_drained(box: Box) -> None:
    box.operate("drain", "echo/2", "--handoff")
    assert box.operate(*WORDS).ok and box.wanted() == {"blue-2": "drained"}
    assert box.slots() == "blue-1 128, blue-3 128"


def test_killed_at_any_point_it_goes_on_with_the_one_it_was_at(again: Make) -> None:
    whole, seen = undisturbed(again, *WORDS), []
    for point, box, done in killed_at_each(again, *WORDS):
        assert done.ok and "resumed at" in done.outcome and same(box, whole) and box.lost == {}, (point, done)
        seen.append(point.removeprefix("restart "))
    assert seen == [
        point for n in (1, 2, 3) for point in (f"restarting echo-blue-{n}", *[f"restarting echo-blue-{n}: changed"] * 2)
    ] + ["evening out"]


def test_cancelled_whoever_is_away_serves_again(again: Make) -> None:
    box, done = cancelled_at(again, "restart restarting echo-blue-2: changed", *WORDS)
    assert done.outcome == "cancelled; restarted: echo-blue-1; all serve"
    assert box.slots() == ALL and box.wanted() == {} and box.lost == {}
