"""What `status` says of a service's colours and of the operation that runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from portfleet.core.desired import DesiredService
from portfleet.core.journal import Journal
from portfleet.core.model import COLOURS
from portfleet.core.observed import Observed
from portfleet.core.printable import quantity
from portfleet.screen.bar import line


def values(service: DesiredService, observed: Observed, journal: Journal) -> dict[str, Any]:
    """Return what each colour that ever ran has: release, since when it does, its processes and their connections."""
    record = journal.services[service.name]
    found: dict[str, Any] = {}
    for colour in COLOURS:
        if colour not in record.colours:
            continue
        ran, seen = record.colours[colour], [observed.seen(i.name) for i in service.of(colour)]
        found[colour] = {
            "release": ran.release,
            "since": ran.since,
            "age": _age(ran.since),
            "keep_until": ran.keep_until,
            "running": sum(one.pid is not None for one in seen),
            "connections": sum(one.connections or 0 for one in seen),
        }
    return found


def operation(service: DesiredService, journal: Journal) -> dict[str, Any] | None:
    """Return the operation that runs on a service, None if there is none."""
    running = journal.running(service.name)
    if running is None:
        return None
    from portfleet.core.operations import to_json  # only if one runs: it takes milliseconds to import

    return to_json(running)


def lines(service: DesiredService, observed: Observed, journal: Journal) -> Iterator[str]:
    """Return a line for each colour if both run, and one for the operation that runs."""
    found = {name: colour for name, colour in values(service, observed, journal).items() if colour["running"]}
    for name, colour in found.items() if len(found) > 1 else ():
        words = [name, "live" if name == service.live else "idle"]
        words += [f"release {colour['release']}"] if colour["release"] else []
        words += [quantity(colour["connections"], "connection")]
        words += [f"for {timedelta(seconds=colour['age'])}"] if colour["age"] is not None else []
        words += [f"kept until {colour['keep_until']}"] if colour["keep_until"] else []
        yield "  ".join(words)
    if running := journal.running(service.name):
        yield f"operation {running.number} by {running.who} since {running.since}: {line(running)}"


def _age(since: str | None) -> int | None:
    """Return the seconds since an RFC 3339 time; None if it is not known."""
    return int((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()) if since else None
