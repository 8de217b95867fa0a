"""Which event explains where a client's connections are: what last moved its slot, its instance, a connection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from portfleet.core.events import Event

#: What moves slots of a service, and what has new connections of an instance go elsewhere.
_SLOTS = frozenset({"ejected", "serving", "ready", "desired-state", "pinned", "operation-ended", "operation-failed"})
_AWAY = frozenset({"ejected", "desired-state"})


def of_slots(events: Sequence[Event], service: str) -> Event | None:
    """Return the last event that moved slots of a service, or may have."""
    return _last(
        event for event in events if (event.kind in _SLOTS and event.service == service) or event.kind == "applied"
    )


def away_from(events: Sequence[Event], instance: str) -> Event | None:
    """Return the last event by which new connections of an instance went elsewhere."""
    return _last(event for event in events if event.kind in _AWAY and event.instance == instance)


def handed_over(events: Sequence[Event], service: str) -> Event | None:
    """Return the last event by which established connections of a service may have been handed off."""
    return _last(
        event
        for event in events
        if (event.kind in ("operation-ended", "operation-failed") and event.service == service)
        or event.kind == "applied"
    )


def _last(events: Iterable[Event]) -> Event | None:
    return max(events, key=lambda event: event.number, default=None)
