"""What goes on around the instances, looked at once a second: limits, others' rules, who else listens on their ports.

A look may take seconds where a firewall has many rules, so it has a thread of its own, and nothing waits for it:
neither an ejection nor the watch over new processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from portfleet.core.paths import Paths
from portfleet.dataplane.interface import Connections, Hazard
from portfleet.store.log import Log
from portfleet.watch.beside import Beside
from portfleet.watch.deaths import Deaths
from portfleet.watch.judge import Judge
from portfleet.watch.limit_monitor import LimitMonitor
from portfleet.watch.processes import Processes
from portfleet.watch.roster import Roster
from portfleet.watch.time_slices import TimeSlices

T = TypeVar("T")

#: Seconds between two looks.
_EVERY = 1.0


class Surroundings:
    """Looks for as long as the watcher runs; ``limits`` has what is warned of."""

    def __init__(
        self,
        *,
        paths: Paths,
        connections: Connections,
        roster: Roster,
        judge: Judge,
        processes: Processes,
        deaths: Deaths,
        log: Log,
    ) -> None:
        self._roster, self._judge, self._processes, self._deaths, self._log = roster, judge, processes, deaths, log
        self._beside, self._slices = Beside(paths, log), TimeSlices(log)
        self._pool = ThreadPoolExecutor(1, "surroundings")
        self.limits = LimitMonitor(paths, connections, log)

    async def run(self, hazards: Callable[[], list[Hazard]]) -> None:
        """Look for ever; ``hazards`` asks the data plane for what costs clients, and may take its time."""
        try:
            while True:
                with self._log.costs("limits"):
                    await self._look(hazards)
                await asyncio.sleep(_EVERY)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _look(self, hazards: Callable[[], list[Hazard]]) -> None:
        found = await self._in_pool(hazards)
        known, local = self._deaths.pids, self._roster.local
        pids = {name: known[name] for name in local & known.keys()}
        running = [member for name, member in self._roster.members.items() if name in pids]
        there, programs = self._judge.listeners.pairs(), self._processes.programs
        if self._beside.due(running, there):
            for member in await self._in_pool(lambda: self._beside.look(running, there, programs)):
                self._judge.look(member.name)
            await self._in_pool(lambda: self._slices.look(running, pids, there))
        self.limits.look(pids, self._judge.said, found)

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
