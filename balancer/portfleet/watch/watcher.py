"""The watcher's parts held together: one loop, nothing in it blocks longer than a kernel transaction.

What may take long (supervisord, readiness of a new process) runs in one helper thread; deaths, probes and foreign
changes of the rules come as events. It keeps no state that it could not read again: killed, it changes nothing for
clients, and started again it adopts the table, the processes and the out-set that are there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from portfleet import adopted, daemonize
from portfleet.context import Context
from portfleet.desired import Desired, InstanceWant, ServiceWant
from portfleet.errors import PortfleetError
from portfleet.observe import Look
from portfleet.observed import InstanceSeen
from portfleet.states import AT_REST
from portfleet.supervisor import ProgramInfo
from portfleet.watch.deaths import Deaths
from portfleet.watch.ejector import Ejector
from portfleet.watch.health import Health, all_out
from portfleet.watch.log import Log
from portfleet.watch.poke import poke
from portfleet.watch.prober import Prober, Target
from portfleet.watch.restarts import Backoff

#: Seconds between looks at supervisord when nothing happens, and when somebody is on the way back.
_CALM, _HURRY = 1.0, 0.03
_TICK = 0.02
_SUPERVISOR = "supervisord"


@dataclass
class Member:
    """One instance that shall run: what is wanted of it and how it has been doing."""

    service: ServiceWant
    want: InstanceWant
    health: Health
    backoff: Backoff
    hung_since: float | None = None
    died_at: float = field(default=0.0)


class Watcher:
    """Runs until SIGTERM; ``log`` takes an event with its fields."""

    def __init__(self, context: Context, log: Log, ejector: Ejector) -> None:
        self._context, self._log, self._ejector = context, log, ejector
        self._loop = asyncio.get_running_loop()
        self._deaths = Deaths(self._loop, self._died)
        self._prober = Prober(self._probed, time.monotonic)
        self._random = Random()  # noqa: S311 (jitter, not a secret)
        self._members: dict[str, Member] = {}
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._stamp: tuple[float, ...] = ()
        self.desired: Desired | None = None
        self._loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._wake.set)

    async def run(self) -> None:
        """Watch until told to stop."""
        ticking = asyncio.create_task(self._tick())
        try:
            while not self._stop.is_set():
                await self._look()
                await self._sleep(_HURRY if self._hurried() else _CALM)
        finally:
            ticking.cancel()

    def wake(self) -> dict[str, object]:
        """Look again now; gives the answer of the command `reload`."""
        self._wake.set()
        return {}

    def stop(self) -> None:
        """End after the present look."""
        self._stop.set()
        self._wake.set()

    async def _tick(self) -> None:
        while True:
            self._prober.tick()
            await asyncio.sleep(_TICK)

    async def _sleep(self, seconds: float) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (self._wake, self._stop)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._wake.clear()

    def _hurried(self) -> bool:
        return bool(self._ejector.pending) or any(
            time.monotonic() - member.died_at < 30
            for name, member in self._members.items()
            if name in self._ejector.out
        )

    async def _look(self) -> None:
        """Read what is wanted, what supervisord has, and who is on the way back."""
        try:
            self._reload()
            programs = await asyncio.to_thread(self._context.supervisor.programs)
        except PortfleetError as error:
            self._log("cannot-look", reason=error.message.splitlines()[0])
            return
        if self._deaths.pid(_SUPERVISOR) is None:
            self._deaths.watch(_SUPERVISOR, await asyncio.to_thread(self._context.supervisor.pid))
        alive = adopted.alive(self._context.paths.processes)
        for name, member in self._members.items():
            info = programs.get(name)
            pid = info.pid if info and info.pid else alive.get(name)
            if pid is not None:
                self._deaths.watch(name, pid)
            elif info is not None:
                self._revive(name, member, info)
        adopted.note(self._context.paths.processes, self._deaths.started())
        await self._readmit(programs)

    def _reload(self) -> None:
        """Read config and journal again where they changed."""
        paths = self._context.paths
        stamp = tuple(_modified(path) for path in (paths.applied, paths.journal))
        if stamp == self._stamp:
            return
        context = Context(paths)
        fleet = context.applied_fleet
        desired = context.desired(fleet)
        self._stamp, self.desired = stamp, desired
        known, self._members = self._members, {}
        for service in desired.services.values():
            probe = service.service.probe
            for want in service.running:
                fresh = Member(service, want, Health(probe.fall, probe.rise), Backoff(self._random))
                member = known.get(want.name, fresh)
                member.service, member.want = service, want
                self._members[want.name] = member
                if want.name not in known and want.takes and want.name not in self._ejector.out:
                    self._ejector.pending.add(want.name)
        for name in known.keys() - self._members.keys():
            self._deaths.forget(name)
        self._ejector.settle(desired)
        self._aim()
        self._log("watching", services=",".join(desired.services), instances=len(self._members))

    def _aim(self) -> None:
        """Probe those that serve or came out by probes; who died is looked at until ready instead."""
        out, pending = self._ejector.out, self._ejector.pending
        self._prober.aim(
            _target(member)
            for name, member in self._members.items()
            if member.want.takes and name not in pending and (name not in out or out[name].kind == "probe")
        )

    def _died(self, name: str, pid: int) -> None:
        if name == _SUPERVISOR:
            self._supervisor_died()
            return
        poke(self._context.paths.supervisor_socket, self._loop)
        member = self._members.get(name)
        if member is None or self._stop.is_set():
            return
        member.died_at, member.hung_since = time.monotonic(), None
        if member.want.takes:
            self._eject(name, member, kind="died", reason=f"process {pid} ended")
        self._wake.set()

    def _eject(self, name: str, member: Member, *, kind: str, reason: str) -> None:
        known = name in self._ejector.out
        try:
            took = self._ejector.eject(member.service, member.want, kind=kind, reason=reason)
        except PortfleetError as error:
            self._log("cannot-eject", instance=name, reason=error.message.splitlines()[0])
            return
        if not known:
            self._log("ejected", instance=name, reason=reason, took_ms=f"{took * 1000:.2f}")
        self._aim()

    def _probed(self, name: str, trouble: str) -> None:
        member = self._members.get(name)
        if member is None:
            return
        if not member.health.note(trouble):
            self._restart_hung(name, member, trouble)
            return
        if member.health.healthy:
            member.hung_since = None
            self._admit(name, member, "answers its probes again")
            return
        member.hung_since = time.monotonic()
        serving = {i.name for i in member.service.instances if i.takes}
        policy = member.service.service.when_empty
        if all_out(serving, set(self._ejector.out), name) and policy == "keep":
            self._log("kept", instance=name, reason=f"{trouble}; the last of {member.service.name} that serves")
            return
        self._eject(name, member, kind="probe", reason=trouble)

    def _restart_hung(self, name: str, member: Member, trouble: str) -> None:
        after = member.service.service.probe.restart_after
        if not trouble or after is None or member.hung_since is None:
            return
        if time.monotonic() - member.hung_since < after:
            return
        member.hung_since = None
        self._log("restarting", instance=name, reason=f"hung for {after:.0f} s: {trouble}")
        pid = self._deaths.pid(name)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def _revive(self, name: str, member: Member, info: ProgramInfo) -> None:
        """Start again what supervisord has given up, later and later."""
        now = time.monotonic()
        if info.state not in AT_REST or (info.state == "EXITED" and info.exit_status == 2):
            return
        fresh = member.backoff.due is None
        wait = member.backoff.schedule(now)
        if fresh:
            self._log(
                "given-up", instance=name, state=info.state, exit_code=info.exit_status, again_in=f"{wait:.0f}s",
                try_number=member.backoff.tries, reason=info.error or "it does not stay up",
            )  # fmt: skip
        if member.backoff.is_due(now):
            self._log("starting", instance=name, try_number=member.backoff.tries)
            self._loop.run_in_executor(None, self._start, name)

    def _start(self, name: str) -> None:
        try:
            self._context.supervisor.start(name)
        except PortfleetError as error:
            self._log("cannot-start", instance=name, reason=error.message)

    async def _readmit(self, programs: dict[str, ProgramInfo]) -> None:
        """Let in whoever has become ready: new instances and those that died."""
        out = self._ejector.out
        away = [
            (name, member)
            for name, member in self._members.items()
            if member.want.takes and (name in self._ejector.pending or (name in out and out[name].kind == "died"))
        ]
        if not away:
            return
        for name, seen in (await asyncio.to_thread(self._at, away, programs)).items():
            if seen.ready and name in self._members:
                self._members[name].health.healthy = True
                self._members[name].backoff.ran(time.monotonic() - self._members[name].died_at)
                self._admit(name, self._members[name], "ready")

    def _at(self, away: list[tuple[str, Member]], programs: dict[str, ProgramInfo]) -> dict[str, InstanceSeen]:
        look = Look(programs, self._context.paths, probe=True)
        return {name: look.at(member.service, member.want) for name, member in away}

    def _admit(self, name: str, member: Member, reason: str) -> None:
        was = self._ejector.out.get(name)
        try:
            slots = self._ejector.admit(member.service, member.want)
        except PortfleetError as error:
            self._log("cannot-admit", instance=name, reason=error.message.splitlines()[0])
            return
        away = f"{time.monotonic() - member.died_at:.2f}s" if was and was.kind == "died" and member.died_at else "-"
        self._log("serving", instance=name, slots=slots, reason=reason, away=away)
        self._aim()

    def _supervisor_died(self) -> None:
        """Start another supervisord (where systemd does not) and make room for its watcher; instances go on."""
        if self._stop.is_set():
            return
        self._log("supervisord-died", reason="instances go on serving; another supervisord is started")
        if not daemonize.unit_enabled() and self.desired is not None:
            fleet = Context(self._context.paths).applied_fleet
            try:
                daemonize.start(fleet, self._context.paths)
            except PortfleetError as error:
                self._log("cannot-start-supervisord", reason=error.message)
        self.stop()


def _target(member: Member) -> Target:
    remote, service = member.want.rule.remote, member.service.service
    host = str(remote.address) if remote else "127.0.0.1" if 4 in service.families else "::1"
    control = member.want.program.control if member.want.program and service.ours else None
    return Target(member.want.name, host, member.want.rule.port, control, service.probe)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0.0
