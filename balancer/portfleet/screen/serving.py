"""Whether a fleet does what it is for, as a value that monitors can go by: the exit code of `status`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from portfleet.core.desired import DesiredInstance, DesiredService
from portfleet.core.errors import Exit
from portfleet.core.model import Listen
from portfleet.core.observed import Observed
from portfleet.core.states import State

Entry = Mapping[str, Any]


def not_serving(service: DesiredService, entries: Iterable[Entry]) -> list[str]:
    """Return the instances that are to take new connections and do not; ``entries`` as of `instance_entry`."""
    known = {entry["name"]: entry for entry in entries}
    return [want.name for want in service.instances if want.takes and not _serves(service, want, known[want.name])]


def closed(service: DesiredService, observed: Observed) -> list[Listen]:
    """Return the listen addresses whose clients are not sent to the service."""
    return [listen for listen in service.service.listen if observed.plane.listens.get(listen) != service.name]


def served(service: DesiredService, observed: Observed, entries: Iterable[Entry]) -> bool:
    """Return whether clients of a service reach an instance; true if none is to be reached."""
    takers = sum(want.takes for want in service.instances)
    if service.down or not takers:
        return True
    return len(not_serving(service, entries)) < takers and len(closed(service, observed)) < len(service.service.listen)


def health(services: Iterable[Entry], *, watched: bool) -> Exit:
    """Return the worst that is so of ``services`` (as of `service_entry`); ``watched``: both overseers work."""
    found = list(services)
    if not all(service["served"] for service in found):
        return Exit.UNSERVED
    if not watched:
        return Exit.UNWATCHED
    return Exit.DEGRADED if any(service["not_serving"] or service["closed"] for service in found) else Exit.DONE


def _serves(service: DesiredService, want: DesiredInstance, entry: Entry) -> bool:
    """Return whether an instance takes its share: it may have none of its own in a canary, or one that was migrated."""
    has_share = (
        want.instance.member in service.home and not service.canary and want.instance.member not in service.moved
    )
    return bool(entry["state"] == State.READY and (entry["slots"] or not has_share))
