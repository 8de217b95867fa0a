"""Has the overflow of full instances go to the least loaded of the others.

Daemons that count for themselves have no limit in the kernel; connections of the others are counted by port. That takes
a millisecond for some thousand connections and is done in another thread, at most for a fiftieth of the time. A service
is looked at as soon as one of its instances is half full; before that nothing of it will overflow soon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from portfleet.core.changes import DataPlane
from portfleet.core.desired import DesiredService
from portfleet.core.errors import PortfleetError
from portfleet.core.paths import Paths
from portfleet.core.routing import reorder
from portfleet.linux import sockdiag
from portfleet.store import locks
from portfleet.store.log import Log
from portfleet.watch.roster import Roster

#: Seconds between two looks, at least, and in times of what the last one took.
_EVERY, _TIMES = 1.0, 50
#: From this share of an instance's limit on its overflow is thought of.
_HALF = 0.5
#: Seconds to wait for the table lock: who is tried first can wait for the next look, the watcher's loop cannot.
_PATIENCE = 0.05


class OverflowOrder:
    """Orders who is tried first where an instance is full."""

    def __init__(self, *, plane: DataPlane, paths: Paths, roster: Roster, log: Log) -> None:
        self._plane, self._paths, self._roster, self._log = plane, paths, roster, log

    async def run(self) -> None:
        """Look for ever; what is refused is logged and tried again at the next look."""
        while True:
            began = time.monotonic()
            try:
                await self._look()
            except (PortfleetError, OSError) as error:
                self._log.once("cannot-reorder", reason=str(error).splitlines()[0])
            else:
                self._log.over("cannot-reorder")
            await asyncio.sleep(max(_EVERY, _TIMES * (time.monotonic() - began)))

    async def _look(self) -> None:
        if not any(want.rule.tries for want in self._services().values()):
            return
        by_port = await asyncio.to_thread(sockdiag.established)
        if not any(_fills(want, by_port) for want in self._services().values()):
            return
        with locks.table(self._paths.table_lock, seconds=_PATIENCE):
            self._roster.latest()
            changes = [
                change
                for want in self._services().values()
                if _fills(want, by_port)
                for change in reorder(
                    want, self._plane.read_beside(want.rule), {i.name: by_port[i.rule.port] for i in want.instances}
                )
            ]
            if changes:
                self._plane.run(tuple(changes))

    def _services(self) -> Mapping[str, DesiredService]:
        return self._roster.desired.services if self._roster.desired else {}


def _fills(want: DesiredService, by_port: Mapping[int, int]) -> bool:
    """Return whether an instance of the service is about to be full."""
    if not want.rule.tries:
        return False
    return any(by_port[i.rule.port] >= _HALF * i.rule.limit for i in want.instances if i.rule.limit)
