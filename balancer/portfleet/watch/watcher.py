"""The watcher's parts held together: one loop, nothing in it blocks longer than a kernel transaction.

What may take long (supervisord, readiness of a new process) runs in one helper thread; deaths, probes and foreign
changes of the rules come as events. It keeps no state that it could not read again: killed, it changes nothing for
clients, and started again it adopts the table, the processes and the out-set that are there. All times are monotonic:
the wall clock may jump.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from portfleet.apply.context import Context
from portfleet.apply.look import Look
from portfleet.apply.programs import Programs
from portfleet.core.desired import DesiredService
from portfleet.store.locks import Locked
from portfleet.store.log import Log
from portfleet.supervise.nudge import nudge
from portfleet.supervise.supervisor import ProgramInfo
from portfleet.watch.deaths import Deaths
from portfleet.watch.ejector import Ejector
from portfleet.watch.guard_drops import GuardDrops
from portfleet.watch.healer import Healer
from portfleet.watch.judge import Judge
from portfleet.watch.own_programs import OwnPrograms
from portfleet.watch.priority import URGENT, urgent
from portfleet.watch.processes import Processes
from portfleet.watch.remains import Remains
from portfleet.watch.revival import Revival
from portfleet.watch.roster import Member, Roster
from portfleet.watch.rule_guard import RuleGuard
from portfleet.watch.run_files import RunFiles
from portfleet.watch.self_check import SelfCheck
from portfleet.watch.snapshot import Snapshot
from portfleet.watch.starts import Starts
from portfleet.watch.supervision import SUPERVISOR, Supervision
from portfleet.watch.surroundings import Surroundings

T = TypeVar("T")

#: Seconds between looks: at config and journal; at one on the way back, for the first half minute; at everything.
_CALM, _HURRY, _FULL = 0.5, 0.03, 10.0
_HURRIED_FOR = 30.0
#: Seconds the interpreter lets a thread run before the loop may go on (default 5 ms): an ejection waits that long.
_SWITCH = 0.0005
#: Threads for what operations, repairs and orders of overflow wait for.
_HELPERS = 6


class Watcher:
    """Runs until SIGTERM; ``log`` takes an event with its fields."""

    def __init__(
        self, context: Context, log: Log, *, ejector: Ejector, roster: Roster, healer: Healer, check: SelfCheck
    ) -> None:
        self._paths, self._log, self._ejector, self._roster = context.paths, log, ejector, roster
        self._check, paths = check, context.paths
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(1, "helper")
        self._loop.set_default_executor(ThreadPoolExecutor(_HELPERS, "work"))
        self._wake, self._stop = asyncio.Event(), asyncio.Event()
        self._deaths = Deaths(self._loop, self._died)
        self._forget = context.plane.connections.forget_ended
        self._judge = Judge(
            roster=roster, ejector=ejector, log=log, blind=context.plane.connections.full, forget=self._forget,
            pid_of=self._deaths.pids.get,
        )  # fmt: skip
        self._supervision = Supervision(paths=paths, deaths=self._deaths, log=log, pool=self._pool, hand_over=self.stop)
        programs = partial(Programs, supervisor=self._supervision.supervisor, paths=paths)
        starts = Starts(programs=programs, roster=roster, log=log, pool=self._pool)
        self._revival = Revival(
            paths=paths, roster=roster, ejector=ejector, deaths=self._deaths, log=log, starts=starts,
            wake=self._wake.set, give_up=self._supervision.give_up,
        )  # fmt: skip
        self._remains = Remains(self._paths, roster, ejector, log, self._supervision.give_up)
        self._own = OwnPrograms(
            paths=paths, roster=roster, deaths=self._deaths, supervision=self._supervision, starts=starts, log=log
        )
        self._processes = Processes(
            paths=paths, roster=roster, deaths=self._deaths, supervision=self._supervision, log=log,
            missing=self._missing,
        )  # fmt: skip
        self.surroundings = Surroundings(
            paths=paths, connections=context.plane.connections, roster=roster, judge=self._judge,
            processes=self._processes, deaths=self._deaths, log=log,
        )  # fmt: skip
        self._dropped = GuardDrops(context.plane.connections, roster, ejector, self._judge.look, log)
        #: Answers what the watcher knows.
        self.snapshot = Snapshot(
            roster=roster, ejector=ejector, judge=self._judge, processes=self._processes, deaths=self._deaths, log=log,
            limits=self.surroundings.limits, dropped=self._dropped, healer=healer, retries=self._revival.retries,
            plane=context.plane.traits.name,
        )  # fmt: skip
        self._full_at = 0.0
        self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._loop.add_signal_handler(signal.SIGINT, self.stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._wake.set)

    async def run(self, rules: RuleGuard, files: RunFiles) -> None:
        """Watch until told to stop."""
        sys.setswitchinterval(_SWITCH)
        if not urgent():
            self._log("unprivileged", refused=f"nice {URGENT}", costs="ejections may queue behind busy instances")
        self._roster.changed = lambda: self._take_in(rules)
        try:
            while not self._stop.is_set():
                await self._look(rules, files)
                await self._sleep()
        finally:
            self._supervision.close()
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def probe(self) -> None:
        """Probe for ever; the sign that both the loop and the probes go on."""
        while True:
            wait = _CALM
            with self._log.costs("probes"):
                wait = self._judge.tick()
                self._check.alive()
            due = time.monotonic() + wait
            await asyncio.sleep(wait)
            self.snapshot.lag.add(time.monotonic() - due)

    def wake(self) -> dict[str, object]:
        """Look at everything now; return the answer of the command `reload`."""
        self._full_at = 0.0
        self._remains.hurry()
        self._wake.set()
        return {}

    def stop(self) -> None:
        """End after the present look."""
        self._stop.set()
        self._wake.set()

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(_HURRY if self._hurried() else _CALM):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _hurried(self) -> bool:
        since = time.monotonic() - _HURRIED_FOR
        return bool(self._ejector.pending) or any(m.died_at is not None and m.died_at > since for m in self._away())

    def _away(self) -> list[Member]:
        """Return the members on the way back: without a process that is watched, or not let in yet."""
        out, pending = self._ejector.out, self._ejector.pending
        gone = self._roster.local.difference(self._deaths.pids)
        if not (gone or out or pending):
            return []
        return [
            member
            for name, member in self._roster.members.items()
            if name in gone or (member.want.takes and (name in pending or (name in out and out[name].kind == "died")))
        ]

    async def _look(self, rules: RuleGuard, files: RunFiles) -> None:
        """Read the desired state, what supervisord has, and who is on the way back."""
        with self._log.costs("files"):
            await self._keep_files(files)
        with self._log.costs("the socket of the metrics"):
            await files.show(self._roster.desired)
        with self._log.costs("config and journal"):
            self._roster.reload()
        with self._log.costs("guardian"):
            rules.hold()
        with self._log.costs("dropped clients"):
            self._dropped.look()
        for member in [member for member in self._roster.members.values() if member.hung_since is not None]:
            with self._log.costs(member.name):
                self._revival.hung(member)
        now, away = time.monotonic(), self._away()
        self._revival.retries.keep({member.name for member in away if member.startable})
        if not away and now < self._full_at and self._own.watched:
            return
        self._full_at = now + _FULL
        with self._log.costs(SUPERVISOR):
            await self._supervision.look()
            ask = self._supervision.supervisor.programs
            if self._remains.due(away=bool(away)):
                programs, found = await self._in_pool(
                    partial(self._remains.all, ask, self._deaths.pids.get(SUPERVISOR))
                )
                self._remains.look(programs, found, self._deaths.alive())
            else:
                programs = await self._in_pool(ask)
            self._processes.find(programs)
        with self._log.costs("programs beside the instances"):
            for name in self._own.find(self._processes.programs):
                await self._own.start(name)
            self._processes.note()  # of the data plane's too, all at once: a watcher that finds half starts it again
        with self._log.costs("readiness"):
            await self._readmit()

    async def _keep_files(self, files: RunFiles) -> None:
        """Have what was removed from run/ be there again."""
        try:
            removed = await files.look(self._roster.desired)
        except Locked as error:
            self._log("replaced", reason=str(error))
            self.stop()
            return
        if removed:
            self._ejector.write_again()
            self.surroundings.limits.write_again()
            self._revival.retries.write()
            self._full_at = 0.0  # with all processes at hand they are noted again
            self._log("made-anew", files=",".join(removed), reason="removed by another process")

    def _take_in(self, rules: RuleGuard) -> None:
        self._check.busy()
        for name, before, wanted in self._roster.changes:
            self._log("desired-state", instance=name, before=before, wanted=wanted)
        known = self._roster.members.keys() | self._own.programs.keys() | {SUPERVISOR}
        for name in self._deaths.started().keys() - known:
            self._deaths.forget(name)
        self._judge.reloaded()
        rules.reloaded()
        services: Mapping[str, DesiredService] = {}
        if self._roster.desired is not None:
            services = self._roster.desired.services
            self._ejector.warm_up(self._roster.desired)
        self._log("watching", services=",".join(services), instances=len(self._roster.members))
        gc.collect()
        gc.freeze()  # what is there now stays: no later collection walks it in the middle of an ejection

    def _missing(self, member: Member, info: ProgramInfo | None) -> None:
        """A member has no process; its end may have gone unwatched."""
        if member.want.takes and member.name not in self._ejector.out and not self._judge.waits(member):
            member.died_at = time.monotonic()
            self._judge.died(member, "it does not run")
        if not self._remains.holds(member.name):
            self._revival.look(member, info)

    def _died(self, name: str, pid: int) -> None:
        """A watched process has ended: eject first, everything else after."""
        if self._stop.is_set():
            return
        self._remains.hurry()
        if name == SUPERVISOR:
            with self._log.costs(SUPERVISOR):
                self._supervision.died()
            return
        member = self._roster.members.get(name)
        if member is None:
            if name in self._own.programs:
                self._own.ended(name, pid)
                nudge(self._paths.supervisor_socket, self._loop)
                self.wake()
            return
        now, work = time.monotonic(), ""
        with self._log.costs(f"lock of {member.service.name}"):
            work = self._roster.work_on(member)
        with self._log.costs(name):
            if member.served_at is not None:
                member.backoff.ran(now - member.served_at)
            member.died_at, member.served_at = now, None
            member.ends += 1
            self._remains.ended(name, pid)
            self._judge.died(member, f"process {pid} ended{work}")
            if member.startable and not work:
                self._revival.ended(member)
        nudge(self._paths.supervisor_socket, self._loop)
        self._wake.set()

    async def _readmit(self) -> None:
        """Let in whoever has become ready: new instances and those that died."""
        away = [m for m in self._away() if m.want.takes and (not m.local or m.name in self._deaths.pids)]
        if not away:
            return
        look = Look(self._processes.programs, self._paths, probe=True, forget=self._forget)
        await self._judge.looked_at(await self._in_pool(lambda: look.at([(m.service, m.want) for m in away])))

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._pool, work)
