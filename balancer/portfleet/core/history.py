"""The history beyond what the journal keeps of it: an entry as the fields of an event, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from portfleet.core import typed
from portfleet.core.events import Event
from portfleet.core.journal import HistoryEntry

#: The events that stand for an entry, and the fields that are called otherwise in them.
_KINDS = frozenset({"operation-ended", "operation-failed", "pinned"})
_NAMES = {"number": "operation", "who": "operator", "words": "asked"}
#: What an event has of an entry. Not how instances were started, which is needed by a rollback alone.
_FIELDS = ("number", "at", "who", "service", "verb", "words", "outcome", "code", "release", "stays")


def fields_of(entry: HistoryEntry) -> dict[str, object]:
    """Return the fields of the event that tells of ``entry``."""
    return {_NAMES.get(name, name): getattr(entry, name) for name in _FIELDS}


def of_event(event: Event) -> HistoryEntry | None:
    """Return the entry that an event tells of; None if it tells of none."""
    if event.kind not in _KINDS:
        return None
    told = event.to_json()
    values = {name: told[key] for name in _FIELDS if (key := _NAMES.get(name, name)) in told}
    try:
        return typed.read(HistoryEntry, values | {"ok": event.kind != "operation-failed"}, where="event")
    except ValueError:
        return None


def whole(events: Iterable[Event], history: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Return what ``events`` tell of that the journal has forgotten, then the ``history`` that it has."""
    known = {(entry.number, entry.at) for entry in history}
    told = [entry for event in events if (entry := of_event(event)) is not None]
    return [*(entry for entry in told if (entry.number, entry.at) not in known), *history]
