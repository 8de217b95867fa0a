"""A canary: a share of the slots for a while, judged by what both colours count, and by who goes out or restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from portfleet.core.counters import Counters
from portfleet.core.errors import Exit, PortfleetError
from support.fake_kills import Make, cancelled_at, killed_at_each, same, undisturbed
from support.fake_operated import REDIS, Box

BLUE, GREEN = "blue-1 86, blue-2 85, blue-3 85", "green-1 86, green-2 85, green-3 85"
WORDS = ("cutover", "echo", "--release", "v2", "--canary", "25%", "--every", "20s")
QUARTER = "blue-1 64, blue-2 65, blue-3 62, green-1 22, green-2 20, green-3 23"


def test_a_share_of_the_slots_for_a_while_then_all(box: Box) -> None:
    done = box.operate(*WORDS)
    assert [entry for entry in box.log if entry.startswith("slots")] == [f"slots {QUARTER}", f"slots {GREEN}"]
    assert done.ok and 20 <= box.clock.slept < 22 and box.lost == {}


def test_step_by_step(box: Box) -> None:
    box.operate(*WORDS, "--then", "50%,100%")
    assert len([entry for entry in box.log if entry.startswith("slots")]) == 3 and 40 <= box.clock.slept < 43


def test_the_share_of_the_established_connections_is_handed_to_it(box: Box) -> None:
    def at(name: str) -> None:
        if name == "cutover switch":
            assert box.connections() == {"blue-1": 4, "blue-2": 6, "blue-3": 3, "green-1": 1, "green-2": 1}

    box.at = at
    assert box.operate(*WORDS).ok


def test_they_go_back_when_it_is_rolled_back(box: Box) -> None:
    box.daemons.counted = {"echo-green-1": Counters(0, 0), "echo-blue-1": Counters(0, 0)}
    box.later(5, lambda: box.daemons.counted.update({"echo-green-1": Counters(0, 50)}))
    done = box.operate(*WORDS)
    assert "100.0 % of its requests fail" in done.outcome and "2 connections were handed off" in done.outcome
    assert box.connections() == {"blue-1": 5, "blue-2": 7, "blue-3": 3} and box.lost == {}


def test_one_that_is_asked_too_little_is_watched_longer_and_not_promoted(box: Box) -> None:
    box.daemons.counted = {"echo-green-1": Counters(0, 0), "echo-blue-1": Counters(0, 0)}
    box.later(5, lambda: box.daemons.counted.update({"echo-green-1": Counters(3, 0)}))
    done = box.operate(*WORDS)
    assert not done.ok and 60 <= box.clock.slept < 63
    assert done.outcome.startswith(
        "the canary was rolled back at 25 %: it saw 3 requests, 20 are needed to judge it; to promote it all the same: "
        "portfleet cutover echo --release v2; blue serves"
    ), done.outcome


def test_requests_that_come_late_are_enough(box: Box) -> None:
    box.daemons.counted = {"echo-green-1": Counters(0, 0), "echo-blue-1": Counters(0, 0)}
    box.later(30, lambda: box.daemons.counted.update({"echo-green-1": Counters(20, 0)}))
    assert box.operate(*WORDS).ok and 30 <= box.clock.slept < 33


@pytest.mark.parametrize(("there", "code"), [(0, Exit.FAILED), (1, Exit.DONE)])
def test_of_a_daemon_that_counts_nothing_a_connection_is_the_least(tmp_path: Path, there: int, code: Exit) -> None:
    box = Box(tmp_path, REDIS)
    box.later(5, lambda: box.daemons.connections.update({"echo-green-1": there}))
    done = box.operate(*WORDS)
    assert done.code == code and (done.ok or "it saw no connection" in done.outcome), done


@pytest.mark.parametrize("flag", ["--then 25%", "--every 1m", "--max-errors 2%", "--max-p99 3x", "--min-requests 5"])
def test_what_is_said_of_a_canary_that_nobody_asked_for_is_refused(box: Box, flag: str) -> None:
    with pytest.raises(PortfleetError, match=f"{flag.split(maxsplit=1)[0]} is about a canary"):
        box.command("cutover", "echo", "--release", "v2", *flag.split())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("errors", "50.0 % of its requests fail, 1 % may (live: 0.0 %)"),
        ("ejected", "echo-green-2 was ejected: hangs"),
        ("restarted", "echo-green-2 was restarted"),
    ],
)
def test_a_fault_rolls_it_back(box: Box, fault: str, said: str) -> None:
    def happens() -> None:
        if fault == "errors":
            box.daemons.counted = {"echo-green-1": Counters(50, 50), "echo-blue-1": Counters(100, 0)}
        elif fault == "restarted":
            box.supervisor.known["echo-green-2"].pid += 100
        else:
            box.eject("green-2")

    box.daemons.counted = {"echo-green-1": Counters(0, 0), "echo-blue-1": Counters(0, 0)}
    box.later(5, happens)
    done = box.operate(*WORDS)
    assert 5 < box.clock.slept < 7
    assert done.outcome.startswith(f"the canary was rolled back at 25 %: {said}; blue serves"), done.outcome
    assert (box.slots(), box.processes(), box.lost) == (BLUE, "blue-1, blue-2, blue-3", {})


def test_killed_at_any_point_its_time_goes_on(again: Make) -> None:
    whole = undisturbed(again, *WORDS)
    for point, box, done in killed_at_each(again, *WORDS):
        assert done.ok and same(box, whole) and box.lost == {} and box.clock.slept < 23, (point, done)


def test_what_failed_before_the_watcher_died_counts_after_it(box: Box) -> None:
    def at(name: str) -> None:
        if box.clock.slept > 5 and not box.generation:
            box.daemons.counted = {"echo-green-1": Counters(10, 30), "echo-blue-1": Counters(100, 0)}
            box.kill()

    box.daemons.counted = {"echo-green-1": Counters(0, 0), "echo-blue-1": Counters(0, 0)}
    box.at = at
    done = box.operate(*WORDS)
    assert "75.0 % of its requests fail" in done.outcome and "resumed at" in done.outcome and box.generation == 1


def test_cancelled_it_is_rolled_back(again: Make) -> None:
    box, done = cancelled_at(again, "cutover canary: changed", *WORDS)
    assert done.outcome.startswith("cancelled; blue serves") and box.slots() == BLUE and box.lost == {}
