"""Carries out the steps of a plan, one after the other. Killed anywhere, the next `apply` goes on from what is.

Only the moment of read → plan → transaction holds the table lock; waiting for instances does not, so that an
ejection is never late. Slots are computed again under that lock: what the plan printed is what it saw earlier.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

from portfleet.apply.observe import Look
from portfleet.apply.pointer import Pointer
from portfleet.core import steps as s
from portfleet.core.changes import DropInstance, Transaction
from portfleet.core.desired import Desired
from portfleet.core.errors import PortfleetError
from portfleet.core.journal import Journal, JournalError
from portfleet.core.model import parse_instance
from portfleet.core.observed import ObservedInstance
from portfleet.core.paths import Paths
from portfleet.core.program import WATCHER, Program, watch_program
from portfleet.core.slots import Table
from portfleet.core.states import AT_REST
from portfleet.dataplane.interface import DataPlane
from portfleet.store import atomic, faults, locks
from portfleet.store import journal as journal_file
from portfleet.store.out import left_out
from portfleet.supervise import adopted
from portfleet.supervise.ini import program_text
from portfleet.supervise.supervisor import Supervisor

#: Seconds for which a running process must listen wrongly to be given up: it binds its addresses one after the other.
_CERTAIN = 1.0


@dataclass
class Executor:
    """Does steps against a kernel and a supervisord; ``say`` is told each step and, while it waits, how far it is.

    ``go_on`` is asked at every look while it waits for instances, and ends that early.
    """

    desired: Desired
    plane: DataPlane
    supervisor: Supervisor
    paths: Paths
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    go_on: Callable[[], bool] = lambda: True
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _restarted: set[str] = field(default_factory=set)
    _ready: set[str] = field(default_factory=set)

    def run(self, steps: Iterable[s.Step]) -> None:
        """Do all ``steps``; instances that do not become ready are left out and noted in ``failed``."""
        for step in steps:
            words = step.describe()
            faults.point(f"before {words}")
            self.say(words)
            self._do(step)
            faults.point(f"after {words}")

    def lay_out(self) -> None:
        """Write the file of every program that is to run and of no other, for a supervisord that is about to start.

        Those that have outlived an earlier supervisord are set aside: it would start them a second time.
        """
        programs = {name: program for name, program in self.desired.programs.items() if name not in self._resting()}
        programs[WATCHER] = watch_program(self.paths, sys.executable)
        for name in adopted.alive(self.paths.processes):
            programs.pop(name, None)
            adopted.set_aside(self.paths, [name])
        for old in self.paths.programs.glob("*.conf"):
            if old.stem not in programs:
                old.unlink()
        self._write_programs(programs)

    def _do(self, step: s.Step) -> None:
        match step:
            case s.LoadRules(_, changes) | s.OpenListens(changes, _):
                with locks.table(self.paths.table_lock):
                    self.plane.run(changes)
            case s.DropRules(_, changes):
                self._drop(changes)
            case s.StartWatcher():
                self._start_programs({WATCHER: watch_program(self.paths, sys.executable)})
            case s.StartInstances(found):
                self.start(found)
            case s.RestartInstance(name, _, changes, handed):
                if handed:
                    self._part(name)
                self._restart(name, changes)
            case s.WaitReady(found, seconds):
                self.wait(found, seconds)
            case s.PointSlots(service, out):
                self._look_at_new(service)
                self.point(service, out)
            case s.StopInstances(found):
                self._stop(self._unused(found), seconds=60)
            case s.WriteJournal(_, forget):
                self._write(forget)
            case _:
                assert_never(step)

    def _part(self, name: str) -> None:
        from portfleet.apply.handoff_before_restart import part  # asyncio is not for `status`

        part(self.desired, name, out=self.failed.keys() | self._ejected())

    def point(self, service: str, out: frozenset[str]) -> None:
        """Point a service's slots as they shall be now, ``out`` left out besides who is ejected or failed."""
        pointer = Pointer(self.plane, self.paths.table_lock)
        with pointer.hold():
            out = frozenset(name for name in out if not self._halted(name))
            pointer.point(
                self.desired.services[service], out=lambda slots: out | self.failed.keys() | self._ejected(slots)
            )

    def _look_at_new(self, service: str) -> None:
        """Find out which new instances are ready that the watcher has not let in yet: they get their slots as well."""
        new = [i for i in self.desired.services[service].running if i.name in self._ejected() - self.failed.keys()]
        if new:
            look = Look(self.supervisor.programs(), self.paths, probe=True)
            self._ready |= {i.name for i in new if look.at(self.desired.services[service], i).ready}

    def _restart(self, name: str, changes: Transaction) -> None:
        if peer := self._halted(name):
            self.notes.append(f"{name} was not restarted and serves on as it runs: {peer} did not become ready")
            return
        self._restarted.add(name)
        self._stop([name], seconds=self.desired.programs[name].stop_seconds)
        if changes:
            with locks.table(self.paths.table_lock):
                self.plane.run(changes)
        self.start([name])

    def _drop(self, changes: Transaction) -> None:
        with locks.table(self.paths.table_lock):
            unused = set(self._unused(change.name for change in changes if isinstance(change, DropInstance)))
            if left := tuple(c for c in changes if not isinstance(c, DropInstance) or c.name in unused):
                self.plane.run(left)

    def _unused(self, names: Iterable[str]) -> list[str]:
        """Return those of ``names`` without slots: who still has some is all that its service has to serve with."""
        found = list(names)
        services = {_service(name) for name in found} & self.desired.services.keys()
        owners = {owner for service in services if service for owner in self.plane.read_slots(service)}
        for name in filter(owners.__contains__, found):
            note = f"{name} is not wanted any more but serves on: nobody else of its service is ready"
            self.notes += [note] if note not in self.notes else []
        return [name for name in found if name not in owners]

    def _halted(self, name: str) -> str | None:
        """Return who of the same service was restarted and did not become ready: others must not follow it."""
        found = (other for other in self._restarted & self.failed.keys() if _service(other) == _service(name))
        return min(found, default=None)

    def start(self, names: Iterable[str]) -> None:
        """Write the programs of instances and have supervisord run them as they are wanted now."""
        self._start_programs({name: self.desired.programs[name] for name in names})

    def _write_programs(self, programs: Mapping[str, Program]) -> None:
        for name, program in programs.items():
            self._make_control_directory(Path(program.control), program.user)
            atomic.write(self.paths.programs / f"{name}.conf", program_text(program).encode(), mode=0o600)

    def _start_programs(self, programs: Mapping[str, Program]) -> None:
        self._write_programs(programs)
        for name in programs:
            (self.paths.programs / f"{name}.adopted").unlink(missing_ok=True)
        _, changed, _ = self.supervisor.reload()
        for name in programs:
            if name in changed:
                self.supervisor.stop(name)
                self._forget(name, seconds=10)
            self.supervisor.start(name)

    def _make_control_directory(self, control: Path, user: str | None) -> None:
        """Return a daemon of another user a directory for its socket, and the socket its usual name."""
        if user is None:
            return
        import shutil

        control.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(control.parent, user)
        link = self.paths.run / control.name
        if not link.is_symlink():
            link.symlink_to(control)

    def wait(self, names: tuple[str, ...], seconds: float) -> None:
        """Wait until instances are ready; who is not in time, or cannot be, is noted in ``failed``."""
        deadline = self.clock() + seconds
        wanted = {want.name: (service, want) for service in self.desired.services.values() for want in service.running}
        waiting = dict.fromkeys(names, "")
        self._ready.difference_update(names)
        faulty: dict[str, tuple[str, float]] = {}
        while waiting:
            programs = self.supervisor.programs()
            look = Look(programs, self.paths, probe=True)
            for name in list(waiting):
                seen = look.at(*wanted[name])
                self._ready |= {name} if seen.ready else set()
                if seen.ready and name not in self.failed and name not in self._ejected():
                    del waiting[name]
                    continue
                waiting[name] = seen.fault or seen.waiting or _not_up(seen)
                if not _hopeless(seen):
                    faulty.pop(name, None)
                    continue
                fault, since = faulty.setdefault(name, (waiting[name], self.clock()))
                if seen.program in AT_REST or (fault == waiting[name] and self.clock() - since > _CERTAIN):
                    self.failed[name] = waiting.pop(name)
            if waiting and (self.clock() > deadline or not self.go_on()):
                self.failed |= waiting
                return
            if waiting:
                time.sleep(0.05)

    def end(self, names: Iterable[str], *, patience: float = 5.0) -> None:
        """End instances that nobody needs: SIGTERM, which lets our daemon take in what is on its way and finish.

        After ``patience`` seconds comes another SIGTERM, which ends a daemon that drains, then SIGKILL.
        """
        found = tuple(names)
        known = self.supervisor.programs()
        for name in found:
            self.supervisor.stop(name)
        for signal in ("TERM", "KILL"):
            deadline = self.clock() + patience
            while (left := self._alive(found)) and self.clock() < deadline:
                time.sleep(0.02)
            for name in left:
                self.supervisor.signal(name, signal)
        self._stop([name for name in found if name in known or name in adopted.alive(self.paths.processes)], seconds=30)

    def _alive(self, names: Iterable[str]) -> list[str]:
        programs = self.supervisor.programs()
        return [name for name in names if name in programs and programs[name].pid is not None]

    def _stop(self, names: Iterable[str], *, seconds: float) -> None:
        for name in names:
            self.supervisor.stop(name)
        adopted.end(self.paths, names, supervisor=self.supervisor.pid(), seconds=seconds)
        for name in names:
            self._forget(name, seconds=seconds)
            if name not in self.desired.programs or name in self._resting():
                (self.paths.programs / f"{name}.conf").unlink(missing_ok=True)
        self.supervisor.reload()

    def _resting(self) -> frozenset[str]:
        """Return who is in maintenance: no supervisord is to find a file of it and start it."""
        return frozenset(want.name for want in self.desired.instances() if want.program and not want.startable)

    def _forget(self, name: str, *, seconds: float) -> None:
        deadline = self.clock() + seconds
        while not self.supervisor.remove(name):
            if self.clock() > deadline:
                raise PortfleetError(
                    f"{name} has not stopped after {seconds:.0f} s", hint=f"see its log: portfleet logs {name}"
                )
            time.sleep(0.02)

    def _ejected(self, slots: Table = ()) -> frozenset[str]:
        """Return who is left out by the watcher's word; of the new not those that were found ready here."""
        out = left_out(self.paths, slots)
        return frozenset(name for name, entry in out.items() if entry.kind != "new" or name not in self._ready)

    def _write(self, forget: tuple[str, ...]) -> None:
        def merge(journal: Journal) -> Journal:
            for name in self.desired.configured:
                record = self.desired.journal.services[name]
                # Denials are made and taken back at any time, also while this was under way.
                denied = journal.services[name].denied if name in journal.services else record.denied
                journal = journal.with_service(name, replace(record, denied=denied))
            for name in forget:
                journal = journal.without_service(name)
            return journal

        try:
            journal_file.read(self.paths.journal)
        except JournalError:
            journal_file.set_aside(self.paths.journal)
        journal_file.update(self.paths.journal, merge)


def _service(name: str) -> str | None:
    instance = parse_instance(name)
    return instance.service if instance else None


def _hopeless(seen: ObservedInstance) -> bool:
    """Return whether waiting longer cannot help: a crash loop, a broken config, the wrong address."""
    return seen.fault is not None and seen.program in AT_REST | {"RUNNING"}


def _not_up(seen: ObservedInstance) -> str:
    if seen.ready:
        return "ready, the watcher has not let it in yet"
    return f"supervisord has it {seen.program}" if seen.program else "supervisord does not know it"
