"""Has the overflow of full instances go to the least loaded of the others.

The data plane keeps the limits of instances that do not keep them themselves, and counts for all of them. Counting
takes a millisecond for some thousand connections and is done in another thread, at most for a fiftieth of the time. A
service is looked at as soon as one of its instances is half full; before that nothing of it will overflow soon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from portfleet.apply.pointer import Pointer
from portfleet.core.changes import Route
from portfleet.core.desired import DesiredService
from portfleet.core.paths import Paths
from portfleet.dataplane.interface import DataPlane
from portfleet.store.log import Log
from portfleet.watch.roster import Roster

#: Seconds between two looks, at least, and in times of what the last one took.
_EVERY, _TIMES = 1.0, 50
#: From this share of an instance's limit on its overflow is thought of.
_HALF = 0.5


class OverflowOrder:
    """Orders which instances are tried first when one is full."""

    def __init__(self, *, plane: DataPlane, paths: Paths, roster: Roster, log: Log) -> None:
        self._plane, self._paths, self._roster, self._log = plane, paths, roster, log

    async def run(self) -> None:
        """Look for ever; what goes wrong is logged and tried again at the next look."""
        while True:
            began = time.monotonic()
            with self._log.costs("overflow order"):
                await self._look()
            await asyncio.sleep(max(_EVERY, _TIMES * (time.monotonic() - began)))

    async def _look(self) -> None:
        limited = [i.rule for want in self._services().values() if want.rule.tries for i in want.instances]
        if not limited:
            return
        counts = await asyncio.to_thread(self._plane.connections.count, limited)
        if not any(_fills(want, counts) for want in self._services().values()):
            return
        with Pointer(self._plane, self._paths.table_lock, patience=0).hold():
            self._roster.latest()
            for want in self._services().values():
                if _fills(want, counts):
                    with self._log.costs(f"overflow order of {want.name}"):
                        self._plane.run((self._route(want, counts),))

    def _route(self, want: DesiredService, counts: Mapping[str, int | None]) -> Route:
        """Return what leaves a service's slots as they are and has the least loaded instance tried first."""
        slots = self._plane.read_slots(want.name)
        local = [i.name for i in want.instances if i.rule.remote is None and i.name in slots]
        order = tuple(sorted(local, key=lambda name: counts.get(name) or 0))
        return Route(want.rule, slots, want.pins if want.rule.pins else {}, order)

    def _services(self) -> Mapping[str, DesiredService]:
        return self._roster.desired.services if self._roster.desired else {}


def _fills(want: DesiredService, counts: Mapping[str, int | None]) -> bool:
    """Return whether an instance of the service is about to be full."""
    limited = [i.rule for i in want.instances if i.rule.limit] if want.rule.tries else []
    return any((counts.get(rule.name) or 0) >= _HALF * rule.limit for rule in limited)
