"""The processes of instances: started through supervisord, waited for, and ended in one way, whoever runs them.

A process may be supervisord's child or adopted (it outlived an earlier supervisord); ending it is the same for both.
What takes long is a generator of the seconds until its next look: `run` goes through it in a thread of its own, the
watcher's operations between other things.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from portfleet.apply.observe import Look
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.errors import PortfleetError
from portfleet.core.observed import ObservedInstance
from portfleet.core.paths import Paths
from portfleet.core.program import WATCHER, Program, watch_program
from portfleet.core.slots import Table
from portfleet.core.states import AT_REST
from portfleet.store import atomic
from portfleet.store.clock import Clock
from portfleet.store.out import left_out
from portfleet.supervise import adopted
from portfleet.supervise.adopted import Process
from portfleet.supervise.ini import program_text
from portfleet.supervise.supervisor import ProgramInfo, Supervisor

#: Seconds for which a running process must listen wrongly to be given up: it binds its addresses one after the other.
_CERTAIN = 1.0
#: Seconds between two looks at who is ready, and at who has ended.
_READY, _ENDED = 0.05, 0.02
#: Seconds after which the second SIGTERM is sent once more: one that comes before the process has taken in the first is
#: lost (signal(7)), and with it ten seconds.
_REPEATED = 0.2
#: Seconds that a process may outlive SIGKILL, as one that waits for a disk does.
_GRACE = 30.0


@dataclass(frozen=True)
class Ending:
    """How processes end, in seconds from their SIGTERM: others from ``again`` on (None: none), SIGKILL at ``kill``.

    Our daemon finishes after the first SIGTERM what is on its way and drains its connections; the second ends that.
    """

    again: float | None
    kill: float


#: For those with slots or connections no more: what is on its way is finished.
EMPTIED = Ending(again=5.0, kill=10.0)
#: For a fleet or a service that is taken down: time to save something, not to let connections finish.
HURRIED = Ending(again=0.0, kill=10.0)


class Looking(Protocol):
    """One look at the machine (`observe.Look`)."""

    def at(self, wanted: Iterable[tuple[DesiredService, DesiredInstance]], /) -> dict[str, ObservedInstance]:
        """Return instances as they are, by name."""


@dataclass
class Programs:
    """Starts and ends instances as ``desired`` has them. ``failed`` is {name: why} of those that did not become ready.

    ``look`` makes one look at the machine with supervisord's programs at hand; None: the machine itself.
    """

    desired: Desired
    supervisor: Supervisor
    paths: Paths
    clock: Clock = field(default_factory=Clock)
    look: Callable[[dict[str, ProgramInfo]], Looking] | None = None
    failed: dict[str, str] = field(default_factory=dict)
    _ready: set[str] = field(default_factory=set)

    def run(self, waits: Iterator[float]) -> None:
        """Go through ``waits``, which `waiting` or `ending` has given, to its end."""
        for seconds in waits:
            self.clock.sleep(seconds)

    def lay_out(self) -> None:
        """Write the file of every program that is to run and of no other, for a supervisord that is about to start.

        Those that have outlived an earlier supervisord are set aside: it would start them a second time.
        """
        # The data plane's own start when instances are ready: before that they would take clients for no instance.
        late = self._resting() | self.desired.own.keys()
        programs = {name: program for name, program in self.desired.programs.items() if name not in late}
        programs[WATCHER] = watch_program(self.paths, sys.executable)
        for name in adopted.alive(self.paths.processes):
            programs.pop(name, None)
            adopted.set_aside(self.paths, [name])
        for old in self.paths.programs.glob("*.conf"):
            if old.stem not in programs:
                old.unlink()
        self._write(programs)

    def start(self, names: Iterable[str]) -> None:
        """Write the programs of instances and have supervisord run them as they are wanted now."""
        self._start({name: self.desired.programs[name] for name in names})

    def start_watcher(self) -> None:
        """Have supervisord run the watcher."""
        self._start({WATCHER: watch_program(self.paths, sys.executable)})

    def look_at(self, names: Collection[str]) -> None:
        """Find out which of ``names``, new ones that the watcher has not let in, are ready: see `ejected`."""
        found = [(s, i) for s in self.desired.services.values() for i in s.running if i.name in names]
        self._ready |= {name for name, seen in self._look().at(found).items() if seen.ready}

    def seen(self, wanted: Iterable[tuple[DesiredService, DesiredInstance]]) -> dict[str, ObservedInstance]:
        """Return instances as they are, by name, without an exchange through their ports."""
        return self._look(probe=False).at(wanted)

    def ejected(self, slots: Table = ()) -> frozenset[str]:
        """Return who is left out by the watcher's word; of the new not those that were found ready here."""
        out = left_out(self.paths, slots)
        return frozenset(name for name, entry in out.items() if entry.kind != "new" or name not in self._ready)

    def waiting(self, names: Collection[str], seconds: float) -> Iterator[float]:
        """Wait until instances are ready; who is not within ``seconds``, or cannot be, is noted in ``failed``."""
        deadline = self.clock.monotonic() + seconds
        wanted = {want.name: (service, want) for service in self.desired.services.values() for want in service.running}
        waiting = dict.fromkeys(names, "")
        self._ready.difference_update(names)
        faulty: dict[str, tuple[str, float]] = {}
        while waiting:
            for name, seen in self._look().at([wanted[name] for name in waiting]).items():
                self._ready |= {name} if seen.ready else set()
                if seen.ready and name not in self.failed and name not in self.ejected():
                    del waiting[name]
                    continue
                waiting[name] = seen.fault or seen.waiting or _not_up(seen)
                if not _hopeless(seen):
                    faulty.pop(name, None)
                    continue
                fault, since = faulty.setdefault(name, (waiting[name], self.clock.monotonic()))
                certain = fault == waiting[name] and self.clock.monotonic() - since > _CERTAIN
                if seen.program in AT_REST or certain:
                    self.failed[name] = waiting.pop(name)
            if waiting and self.clock.monotonic() > deadline:
                self.failed |= waiting
                return
            if waiting:
                yield _READY

    def ending(self, names: Collection[str], how: Ending, *, alone: bool = False) -> Iterator[float]:
        """End the processes of ``names`` and have every supervisord forget them: only `start` starts them again.

        ``alone``: no supervisord runs. Raises PortfleetError for one that outlives SIGKILL.
        """
        if not names:
            return
        manager = None if alone else self.supervisor.pid()
        lost = adopted.lost(self.paths.processes, names, supervisor=manager)
        if manager is not None:
            for name in names:
                self.supervisor.stop(name)
        adopted.send(lost.values(), signal.SIGTERM)
        began, again, kill = self.clock.monotonic(), how.again, how.kill
        while left := self._left(names, lost, manager):
            spent = self.clock.monotonic() - began
            if again is not None and spent >= again:
                self._signal(left, lost, signal.SIGTERM)
                again = spent + _REPEATED
            if spent >= kill:
                self._signal(left, lost, signal.SIGKILL)
                kill = float("inf")
            if spent > how.kill + _GRACE:
                raise PortfleetError(
                    f"{', '.join(left)} has not ended by SIGKILL",
                    hint=f"see what it waits for: portfleet logs {left[0]}",
                )
            yield _ENDED
        for name in names:  # a supervisord that starts anew starts every program that it finds
            for kind in ("conf", "adopted"):
                (self.paths.programs / f"{name}.{kind}").unlink(missing_ok=True)
        if manager is not None:
            self.supervisor.reload()

    def kill(self, name: str) -> None:
        """Kill a process that hangs; supervisord starts it again if it is wanted."""
        lost = adopted.lost(self.paths.processes, [name], supervisor=self.supervisor.pid())
        self._signal([name], lost, signal.SIGKILL)

    def _start(self, programs: Mapping[str, Program]) -> None:
        self._write(programs)
        for name in programs:
            (self.paths.programs / f"{name}.adopted").unlink(missing_ok=True)
        _, changed, _ = self.supervisor.reload()
        if outdated := {name: program for name, program in programs.items() if name in changed}:
            self.run(self.ending(outdated, EMPTIED))
            self._write(outdated)
            self.supervisor.reload()
        for name in programs:
            self.supervisor.start(name)

    def _write(self, programs: Mapping[str, Program]) -> None:
        for name, program in programs.items():
            self._make_control_directory(Path(program.control), program.user)
            atomic.write(self.paths.programs / f"{name}.conf", program_text(program).encode(), mode=0o600)

    def _make_control_directory(self, control: Path, user: str | None) -> None:
        """Make a directory for the socket of a daemon of another user, which has no right to write to run/."""
        if user is None:
            return
        import shutil

        control.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(control.parent, user)

    def _look(self, *, probe: bool = True) -> Looking:
        programs = self.supervisor.programs()
        return self.look(programs) if self.look else Look(programs, self.paths, probe=probe)

    def _left(self, names: Iterable[str], lost: Mapping[str, Process], manager: int | None) -> list[str]:
        """Return those whose process is there yet; supervisord is to forget the others, once it has reaped them."""
        programs = self.supervisor.programs() if manager is not None else {}
        ended = [name for name in names if name in programs and programs[name].pid is None]
        gone = {name for name in ended if self.supervisor.remove(name)}
        return [name for name in names if (name in programs and name not in gone) or _alive(lost.get(name))]

    def _signal(self, names: Iterable[str], lost: Mapping[str, Process], number: signal.Signals) -> None:
        for name in names:
            if name in lost:
                adopted.send([lost[name]], number)
            else:
                self.supervisor.signal(name, number.name.removeprefix("SIG"))

    def _resting(self) -> frozenset[str]:
        """Return who is in maintenance: no supervisord is to find a file of it and start it."""
        return frozenset(want.name for want in self.desired.instances() if want.program and not want.startable)


def _alive(process: Process | None) -> bool:
    return process is not None and process.alive


def _hopeless(seen: ObservedInstance) -> bool:
    """Return whether waiting longer cannot help: a crash loop, a broken config, the wrong address."""
    return seen.fault is not None and seen.program in AT_REST | {"RUNNING"}


def _not_up(seen: ObservedInstance) -> str:
    if seen.ready:
        return "ready, the watcher has not let it in yet"
    return f"supervisord has it {seen.program}" if seen.program else "supervisord does not know it"
