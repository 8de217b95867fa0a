"""rebalance: connections from the fullest to the emptiest until the limit is kept; slots stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from portfleet.core.errors import Exit, PortfleetError
from support.fake_kills import Make, killed_at_each
from support.fake_operated import REDIS, Box

WORDS = ("rebalance", "echo")


@pytest.fixture
def uneven(directory: Path) -> Box:
    return Box(directory, blue_1=30)


def test_connections_go_from_the_fullest_to_the_emptiest(uneven: Box) -> None:
    before = uneven.slots()
    done = uneven.operate(*WORDS)
    assert uneven.log == ["10 from blue-1 to blue-2", "10 from blue-1 to blue-3"] and uneven.slots() == before
    assert done.outcome == (
        "max/mean 3.00 → 1.00 (echo-blue-1 30 → 10, echo-blue-2 0 → 10, echo-blue-3 0 → 10); "
        "20 connections were handed off"
    )


def test_it_ends_within_the_limit(uneven: Box) -> None:
    uneven.operate(*WORDS, "--limit", "2")
    assert uneven.connections() == {"blue-1": 20, "blue-2": 10}


def test_those_that_are_out_give_and_get_nothing(uneven: Box) -> None:
    uneven.eject("blue-2")
    uneven.operate(*WORDS)
    assert uneven.connections() == {"blue-1": 15, "blue-3": 15}


def test_an_earlier_hand_off_is_waited_for(uneven: Box) -> None:
    uneven.daemons.busy["echo-blue-1"] = 3
    assert uneven.operate(*WORDS).ok and 3 <= uneven.clock.slept < 4


def test_a_receiver_that_takes_none_ends_it_and_what_moved_stays_moved(uneven: Box) -> None:
    uneven.daemons.refusing["echo-blue-3"] = "no room"
    done = uneven.operate(*WORDS)
    assert not done.ok and done.outcome.endswith("; no room; connections stay where they are")
    assert uneven.connections() == {"blue-1": 20, "blue-2": 10}


def test_even_as_it_is_it_is_done_already(box: Box) -> None:
    assert "already even" in box.command(*WORDS, "--limit", "3")
    assert box.journal.operations == ()


def test_a_daemon_that_cannot_hand_off_is_refused(directory: Path) -> None:
    box = Box(directory, REDIS, blue_1=30)
    with pytest.raises(PortfleetError, match="cannot hand off") as refused:
        box.command(*WORDS)
    assert refused.value.code is Exit.USAGE


def test_killed_it_goes_on_from_what_there_is(again: Make) -> None:
    for point, box, done in killed_at_each(again, *WORDS, "--limit", "1.01", files=True):
        assert done.ok and sum(box.connections().values()) == 15 and box.lost == {}, (point, done)
        assert max(box.connections().values()) == 5, (point, box.connections())


def test_cancelled_connections_stay_where_they_are(directory: Path) -> None:
    box = Box(directory, blue_1=30)
    box.daemons.busy["echo-blue-1"] = 100
    box.command(*WORDS)
    box.command("cancel", "echo")
    assert box.finish().outcome == "cancelled; connections stay where they are"
