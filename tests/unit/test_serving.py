"""What `status` says to monitors, from values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from portfleet.core.changes import PlaneState
from portfleet.core.errors import Exit
from portfleet.core.model import Listen
from portfleet.core.observed import Observed, ObservedInstance, Out
from portfleet.core.records import Asked, ServiceRecord
from portfleet.screen.serving import health
from portfleet.screen.status_rows import service_entry
from support.fleets import ECHO, PATHS, desired

NAMES = tuple(f"echo-blue-{number}" for number in (1, 2, 3, 4))
READY = ObservedInstance("RUNNING", 7, ready=True)
OPEN = {Listen(7000, None, (4, 6)): "echo"}


def code(
    *,
    slots: tuple[str, ...] = NAMES,
    seen: Mapping[str, ObservedInstance] | None = None,
    out: tuple[str, ...] = (),
    listens: Mapping[Listen, str] = OPEN,
    watched: bool = True,
    text: str = ECHO,
    **record: Any,
) -> Exit:
    """Return the exit code for a fleet of four that is as stated, and otherwise as it is to be."""
    journal = desired(text).journal
    changed: ServiceRecord = replace(journal.services["echo"], **record)
    made = desired(text, journal.with_service("echo", changed))
    observed = Observed(
        PlaneState(slots={"echo": slots}, listens=listens),
        instances=dict.fromkeys(NAMES, READY) | dict(seen or {}),
        out=dict.fromkeys(out, Out("died", "", "")),
    )
    entries = [service_entry(want, observed, made.journal, PATHS) for want in made.configured.values()]
    return health(entries, watched=watched)


def test_all_serve() -> None:
    assert code() is Exit.DONE


@pytest.mark.parametrize(
    "seen", [ObservedInstance(), ObservedInstance("STARTING", 8), ObservedInstance("FATAL", fault="ends at once")]
)
def test_one_of_four_that_is_not_ready(seen: ObservedInstance) -> None:
    assert code(seen={"echo-blue-2": seen}) is Exit.DEGRADED


def test_one_that_is_ejected_or_has_no_slot() -> None:
    assert code(out=("echo-blue-2",)) is Exit.DEGRADED
    assert code(slots=NAMES[:3]) is Exit.DEGRADED
    assert code(text=ECHO + 'weight = {"4" = 0}\n', slots=NAMES[:3]) is Exit.DONE  # is to have none


def test_what_an_operator_took_away_is_as_it_is_to_be() -> None:
    asked = Asked("drained", "2026-01-02T03:04:05Z", "op")
    assert code(asked={"echo-blue-2": asked}, slots=(NAMES[0], *NAMES[2:])) is Exit.DONE
    assert code(asked=dict.fromkeys(NAMES, asked), slots=()) is Exit.DONE
    assert (
        code(down="op since yesterday", slots=(), listens={}, seen=dict.fromkeys(NAMES, ObservedInstance()))
        is Exit.DONE
    )


def test_nobody_serves() -> None:
    assert code(slots=()) is Exit.UNSERVED
    assert code(seen=dict.fromkeys(NAMES, ObservedInstance())) is Exit.UNSERVED


def test_an_address_that_is_closed() -> None:
    two = ECHO.replace('[":7000"]', '[":7000", ":7001"]')
    assert code(listens={}) is Exit.UNSERVED
    assert code(text=two) is Exit.DEGRADED
    assert code(text=two, listens=OPEN | {Listen(7001, None, (4, 6)): "echo"}) is Exit.DONE


def test_the_worst_counts() -> None:
    assert code(watched=False) is Exit.UNWATCHED
    assert code(watched=False, out=("echo-blue-2",)) is Exit.UNWATCHED
    assert code(watched=False, slots=()) is Exit.UNSERVED
