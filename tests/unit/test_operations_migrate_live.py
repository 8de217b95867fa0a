"""migrate --live in the watcher: rounds until none is left, what stays is told, and what a cancellation leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from portfleet.core.journal import Journal
from portfleet.core.operations import Operation
from portfleet.core.records import Asked
from portfleet.core.work.migrate_live import MigrateLive
from portfleet.daemons.relocation import Relocated
from support.fake_operated import Box

NOW = "2026-01-31T12:00:00Z"


def begin(box: Box) -> None:
    """Write down what the command does: echo-blue-1 is drained, and its connections are to go to the box two."""
    work = MigrateLive(source="echo-blue-1", box="two", ssh="", asked={})
    operation = Operation(9, "echo", "move", "ann", NOW, work)

    def change(journal: Journal) -> Journal:
        record = journal.services["echo"].asking(["echo-blue-1"], Asked("drained", NOW, "ann"))
        return journal.with_service("echo", record).with_operation(operation)

    box.store.update(change)


def test_rounds_follow_until_none_is_left(box: Box) -> None:
    box.daemons.rounds = [Relocated(2), Relocated(1)]
    begin(box)

    done = box.finish()

    assert (done.ok, done.outcome) == (
        True,
        "echo-blue-1 is drained; 5 connections were moved to two; none is left here",
    )
    assert box.log[-3:] == ["2 from blue-1 to two", "1 from blue-1 to two", "2 from blue-1 to two"]
    assert "blue-1" not in box.slots() and box.wanted() == {"blue-1": "drained"}


def test_what_fails_is_tried_again(box: Box) -> None:
    box.daemons.rounds = [Relocated(0, why="the other box has ended the connection")] * 2
    begin(box)

    assert box.finish().outcome.endswith("5 connections were moved to two; none is left here")


@pytest.mark.parametrize(
    ("rounds", "outcome"),
    [
        ([Relocated(0, why="no room")] * 3, "0 connections were moved to two; 5 stay here until closed (no room)"),
        (
            [Relocated(3), Relocated(0, stayed={"it is closing": 2})],
            "3 connections were moved to two; 2 stay here until closed (2: it is closing)",
        ),
    ],
)
def test_what_cannot_move_stays_and_is_told(box: Box, rounds: list[Relocated], outcome: str) -> None:
    box.daemons.rounds = rounds
    begin(box)

    done = box.finish()

    assert not done.ok and done.outcome == f"echo-blue-1 is drained; {outcome}"
    assert box.wanted() == {"blue-1": "drained"}


def test_cancelled_it_serves_again_and_what_moved_stays_there(box: Box) -> None:
    box.daemons.rounds = [Relocated(2), *([Relocated(0, why="x")] * 2)]
    begin(box)
    box.later(1.0, partial(cancel, box))

    done = box.finish()

    assert done.outcome == "cancelled; echo-blue-1 serves again; 2 connections stay at two"
    assert box.wanted() == {} and box.slots() == "blue-1 86, blue-2 85, blue-3 85"


@pytest.mark.parametrize("point", ["migrate-live begin", "migrate-live moving"])
def test_a_watcher_that_comes_after_goes_on(box: Box, point: str) -> None:
    begin(box)
    box.at = killing(box, point)

    done = box.finish()

    assert "5 connections were moved to two; none is left here" in done.outcome


def cancel(box: Box) -> None:
    """Cancel the operation."""
    box.command("cancel", "echo")


def killing(box: Box, point: str) -> Callable[[str], None]:
    """Return what kills the first watcher that passes ``point``."""

    def at(name: str) -> None:
        if name == point:
            box.at = lambda _: None
            box.kill()

    return at
