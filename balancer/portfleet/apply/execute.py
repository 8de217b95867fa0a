"""Carries out the steps of a plan, one after the other. Killed anywhere, the next `apply` goes on from what is.

Only the moment of read → plan → transaction holds the table lock; waiting for instances does not, so that an
ejection is never late. Slots are computed again under that lock: what the plan printed is what it saw earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import assert_never

from portfleet.apply.endings import Ending
from portfleet.apply.learn import learn_from
from portfleet.apply.pointer import Pointer
from portfleet.apply.programs import Programs
from portfleet.apply.proof import faults_of
from portfleet.core import steps as s
from portfleet.core.changes import DropInstance, Transaction
from portfleet.core.desired import Desired
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import Journal, JournalError
from portfleet.core.model import parse_instance
from portfleet.core.program import METRICS
from portfleet.daemons.instances import running
from portfleet.dataplane.interface import DataPlane
from portfleet.store import faults, locks
from portfleet.store.journal import JournalStore

#: Seconds after a drain's deadline, beside `stop_timeout`, until an instance that stops is killed.
_AFTER = 20.0
#: Seconds until a program of the data plane must answer, and between two looks.
_OWN_START, _OWN_LOOK = 20.0, 0.05
#: Seconds between two times that connections are closed at a rate.
_TICK = 0.1
#: Seconds that this may take longer than twice what it should.
_PACED = 5.0
#: How often connections of an instance that is to be stopped are looked at again.
_LOOKS = 3


@dataclass
class Executor:
    """Does steps against a data plane and the fleet's programs; ``say`` is told each step."""

    programs: Programs
    plane: DataPlane
    store: JournalStore
    say: Callable[[str], None]
    notes: list[str] = field(default_factory=list)
    #: How many connections restarts have closed.
    ended: int = 0
    _restarted: set[str] = field(default_factory=set)
    _started: set[str] = field(default_factory=set)

    @property
    def desired(self) -> Desired:
        """Return what shall be."""
        return self.programs.desired

    @property
    def failed(self) -> dict[str, str]:
        """Return {instance: why} of those that did not become ready, which are left out."""
        return self.programs.failed

    @property
    def complete(self) -> bool:
        """Return whether all instances became ready, and no step was left out."""
        return not self.undone()

    def undone(self) -> list[str]:
        """Return in words who did not become ready, and which steps were left out."""
        return [*(f"{name}: {reason}" for name, reason in self.failed.items()), *self.notes]

    def run(self, steps: Iterable[s.Step]) -> None:
        """Do all ``steps``; instances that do not become ready are left out and noted in ``failed``."""
        for step in steps:
            words = step.describe()
            faults.point(f"before {words}")
            self.say(words)
            self._do(step)
            faults.point(f"after {words}")

    def _do(self, step: s.Step) -> None:
        match step:
            case s.LoadRules(_, changes) | s.OpenListens(changes, _):
                with locks.table(self.programs.paths.table_lock):
                    self.plane.run(changes)
            case s.DropRules(_, changes):
                self._drop(changes)
            case s.StartWatcher():
                self.programs.start_watcher()
            case s.StartInstances(found):
                self.programs.start(found)
                self._started.update(found)
            case s.RestartInstance():
                self._restart(step)
            case s.StartDataPlane(found):
                self.programs.start(found)
                self.programs.run(self._answering(found))
            case s.StartMetrics():
                self.programs.start([METRICS])
            case s.StopMetrics():
                self._end([METRICS], seconds=10)
            case s.WaitReady(found, seconds):
                self.programs.run(self.programs.waiting(found, seconds))
                learn_from(self.programs, found, plane=self.plane, store=self.store)
            case s.LiveOn(found):
                self.programs.run(self.programs.living(self._restarted.union(self._started).intersection(found)))
            case s.PointSlots(service, out):
                self._look_at_new(service)
                self.point(service, out)
            case s.StopInstances(found):
                self._end(self._unused(found), seconds=60)
            case s.WriteJournal(_, forget):
                self._write(forget)
            case _:
                assert_never(step)

    def _answering(self, names: Iterable[str]) -> Iterator[float]:
        """Wait until the data plane's own programs take orders; raise PortfleetError if they do not within 20 s."""
        deadline = self.programs.clock.monotonic() + _OWN_START
        while absent := set(names) - self.plane.processes().keys():
            if self.programs.clock.monotonic() > deadline:
                first = min(absent)
                raise PortfleetError(f"{first} does not answer", hint=f"portfleet logs {first}", code=Exit.TIMEOUT)
            yield _OWN_LOOK

    def _part(self, name: str) -> None:
        from portfleet.apply.handoff_before_restart import part  # asyncio is not for `status`

        pids = running(self.programs.supervisor, self.programs.paths)
        part(self.desired, name, pids=pids, out=self.failed.keys() | self.programs.ejected())

    def point(self, service: str, out: frozenset[str]) -> None:
        """Point a service's slots as they shall be now, ``out`` left out besides who is ejected or failed."""
        pointer, programs = Pointer(self.plane, self.programs.paths.table_lock), self.programs
        with pointer.hold():
            out = frozenset(name for name in out if not self._halted(name))
            pointer.point(
                self.desired.services[service], out=lambda slots: out | self.failed.keys() | programs.ejected(slots)
            )

    def _look_at_new(self, service: str) -> None:
        """Find out which new instances are ready that the watcher has not let in yet: they get their slots as well."""
        running = {i.name for i in self.desired.services[service].running}
        if new := running & (self.programs.ejected() - self.failed.keys()):
            self.programs.look_at(new)

    def _restart(self, step: s.RestartInstance) -> None:
        name = step.name
        if peer := self._halted(name):
            self.notes.append(f"{name} was not restarted and serves on as it runs: {peer} did not become ready")
            return
        if words := faults_of([self.desired.programs[name]], self.programs.paths).get(name):
            self.notes.append(f"{name} was not restarted and serves on as it runs: {words}")
            return
        self._restarted.add(name)
        if step.handed:
            self._part(name)
        elif step.rate and step.grace is None:
            self.programs.run(self._closing(name, step.rate))
        self.ended += self._staying(name)
        self._end([name], seconds=self._patience(name))
        if step.changes:
            with locks.table(self.programs.paths.table_lock):
                self.plane.run(step.changes)
        self.programs.start([name])

    def _closing(self, name: str, rate: int) -> Iterator[float]:
        """Close the connections of an instance without slots, ``rate`` a second; its stop closes what does not end."""
        rule = next(want.rule for want in self.desired.instances() if want.name == name)
        due, now = 0.0, self.programs.clock.monotonic
        until = now() + _PACED + 2 * len(self.plane.connections.of(rule)) / rate
        while (holds := self.plane.connections.of(rule)) and now() < until:
            due = min(due + rate * _TICK, max(1.0, rate * _TICK))
            if due >= 1:
                ended = self.plane.connections.end(holds[: int(due)])
                due, self.ended = due - ended, self.ended + ended
            yield _TICK

    def _staying(self, name: str) -> int:
        """Return how many connections an instance without slots has; a probe under way is none."""
        wants = [(s, i) for s in self.desired.services.values() for i in s.instances if i.name == name]
        found = self.programs.seen(wants)[name].connections or 0
        for _ in range(_LOOKS if found else 0):
            self.programs.clock.sleep(_TICK)
            found = min(found, self.programs.seen(wants)[name].connections or 0)
        return found

    def _patience(self, name: str) -> float:
        """Return how long an instance may drain after its SIGTERM, in seconds."""
        services = self.desired.services.values()
        return next(s.service.drain.deadline for s in services if any(i.name == name for i in s.instances)) + _AFTER

    def _end(self, names: list[str], *, seconds: float) -> None:
        """End programs that have ``seconds`` from their SIGTERM on to let connections finish."""
        self.programs.run(self.programs.ending(names, Ending(again=None, kill=seconds)))

    def _drop(self, changes: Transaction) -> None:
        with locks.table(self.programs.paths.table_lock):
            unused = set(self._unused(change.name for change in changes if isinstance(change, DropInstance)))
            if left := tuple(c for c in changes if not isinstance(c, DropInstance) or c.name in unused):
                self.plane.run(left)

    def _unused(self, names: Iterable[str]) -> list[str]:
        """Return those of ``names`` without slots: who still has some is all that its service has to serve with."""
        found = list(names)
        services = {_service(name) for name in found} & self.desired.services.keys()
        owners = {owner for service in services if service for owner in self.plane.read_slots(service)}
        for name in filter(owners.__contains__, found):
            note = (
                f"{name} is not wanted any more but serves on: no other instance of its service serves; "
                "run apply again when one does"
            )
            self.notes += [note] if note not in self.notes else []
        return [name for name in found if name not in owners]

    def _halted(self, name: str) -> str | None:
        """Return who of the same service was restarted and did not become ready: others must not follow it."""
        found = (other for other in self._restarted & self.failed.keys() if _service(other) == _service(name))
        return min(found, default=None)

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
            self.store.read()
        except JournalError:
            self.store.set_aside()
        self.store.update(merge)


def _service(name: str) -> str | None:
    instance = parse_instance(name)
    return instance.service if instance else None
