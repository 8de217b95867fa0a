"""Programs that the watcher starts by itself, and takes back if they were stopped meanwhile.

A start takes a moment, in which an operation or a verb may stop the same program: it ends what it finds, which is
nothing yet, and the start that was under way would leave a process that is not wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor as Pool

from portfleet.apply.endings import EMPTIED
from portfleet.apply.programs import Programs
from portfleet.core.desired import Desired
from portfleet.core.errors import PortfleetError
from portfleet.store.log import Log
from portfleet.watch.roster import Roster

#: Why a program is ended that has just been started.
_STOPPED = "it was stopped while it was being started"


class Starts:
    """Has supervisord run programs, in the thread of ``pool``; ``programs`` gives what starts and ends desired ones."""

    def __init__(self, *, programs: Callable[[Desired], Programs], roster: Roster, log: Log, pool: Pool) -> None:
        self._programs, self._roster, self._log, self._pool = programs, roster, log, pool

    async def start(self, name: str) -> str:
        """Have supervisord run a program as it is wanted now; return why it cannot, "" if it does.

        Whoever stops one writes down first that it is not wanted, and ends then what runs. So one that is still wanted
        when it has been started is ended by whoever stops it later; one that is not is ended here.
        """
        desired = self._roster.desired
        if desired is None or name not in desired.programs:
            return ""
        trouble = await self._tried(self._start, name, desired)
        latest = self._roster.latest()
        if latest is None or name in latest.programs:
            return trouble
        remains = await self._tried(self._end, name, latest)
        self._log("taken-back", instance=name, reason="; ".join(filter(None, [_STOPPED, remains])))
        return ""

    def _start(self, name: str, desired: Desired) -> str:
        programs = self._programs(desired)
        programs.start([name])
        return programs.failed.get(name, "")

    def _end(self, name: str, desired: Desired) -> str:
        programs = self._programs(desired)
        programs.run(programs.ending([name], EMPTIED))
        return ""

    async def _tried(self, work: Callable[[str, Desired], str], name: str, desired: Desired) -> str:
        """Do ``work`` in the thread; return what it returns, or what it raised in words."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, name, desired)
        except (PortfleetError, OSError) as error:
            return str(error).splitlines()[0]
        except Exception as error:  # noqa: BLE001 (a defect must cost this one start alone; it is told, and tried again)
            self._log.unexpected(name, error)
            return repr(error)
