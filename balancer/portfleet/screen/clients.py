"""What `explain --live` shows of a client's connections, as values for JSON and as lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from portfleet.core import moves
from portfleet.core.events import Event
from portfleet.core.printable import printable
from portfleet.daemons.clients import Held
from portfleet.store.clock import stamp


def connection_entry(one: Held, service: str, target: object, events: Sequence[Event]) -> dict[str, Any]:
    """Return what is said of a connection; ``target`` is the instance that new ones of the client go to.

    ``moved_by`` is the event by which it was handed off, or by which new ones went elsewhere; None for neither.
    """
    moved = None
    if one.instance != one.came_by:
        moved = moves.handed_over(events, service)
    elif target not in (None, one.instance):
        moved = moves.away_from(events, one.instance) or moves.of_slots(events, service)
    return {
        "port": one.port,
        "instance": one.instance,
        "came_by": one.came_by,
        "since": stamp(one.since) if one.since is not None else None,
        "moved_by": moved.to_json() if moved else None,
    }


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines below that of the slot."""
    if answer["moved_by"]:
        yield f"  slots last moved: {_event(answer['moved_by'])}"
    for one in answer["connections"]:
        since = f" since {one['since']}" if one["since"] else ""
        line = f"  from port {one['port']}: on {one['instance']}{since}"
        if one["instance"] != one["came_by"]:
            line += f", handed off by {one['came_by']}"
        elif answer["instance"] not in (None, one["instance"]):
            line += ", where new ones do not go"
        yield line + (f"; {_event(one['moved_by'])}" if one["moved_by"] else "")
    if not answer["connections"]:
        yield "  no established connection"


def _event(event: Mapping[str, Any]) -> str:
    return f"event {event['number']}, {event['time']}: {printable(event['words'])}"
