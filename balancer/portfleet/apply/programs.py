"""The processes of instances: started through supervisord, waited for, and ended in one way, whoever runs them.

A process may be supervisord's child or adopted (it outlived an earlier supervisord); ending it is the same for both.
What takes long is a generator of the seconds until its next look: `run` goes through it in a thread of its own, the
watcher's operations between other things.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from portfleet.apply import content
from portfleet.apply.endings import EMPTIED, Ending, Order
from portfleet.apply.files import Files
from portfleet.apply.look import Look
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.errors import PortfleetError
from portfleet.core.model import Service, parse_instance
from portfleet.core.observed import ObservedInstance
from portfleet.core.paths import Paths
from portfleet.core.program import WATCHER, Program
from portfleet.core.slots import Table
from portfleet.core.states import AT_REST, UP
from portfleet.linux.sockdiag import Ends
from portfleet.store.clock import Clock
from portfleet.store.out import left_out
from portfleet.supervise import adopted
from portfleet.supervise.exit_report import ended_early
from portfleet.supervise.members import Members, Process, send
from portfleet.supervise.presence import supervisor_pid
from portfleet.supervise.supervisor import ProgramInfo, Supervisor, Unreadable

#: Seconds for which a running process must listen wrongly to be given up: it binds its addresses one after the other.
_CERTAIN = 1.0
#: Seconds between two looks at who is ready, at least, at who has ended, and at who lives on.
_READY, _ENDED, _ALIVE = 0.05, 0.02, 0.2


class Looking(Protocol):
    """One look at the machine (`observe.Look`)."""

    def at(self, wanted: Iterable[tuple[DesiredService, DesiredInstance]], /) -> dict[str, ObservedInstance]:
        """Return instances as they are, by name."""

    def strangers(self, desired: Desired, /) -> dict[str, str]:
        """Return who has the port of an instance without a process, in words, by instance."""


@dataclass
class Programs:
    """Starts and ends instances as ``desired`` has them. ``failed`` is {name: why} of those that did not become ready.

    ``ready`` is {name: pid} of those that were found ready, with the process that was.
    ``look`` makes one look at the machine with supervisord's programs at hand; None: the machine itself. ``forget`` is
    told of connections that were made to instances' ports.
    """

    desired: Desired
    supervisor: Supervisor
    paths: Paths
    clock: Clock = field(default_factory=Clock)
    look: Callable[[dict[str, ProgramInfo]], Looking] | None = None
    forget: Callable[[Iterable[Ends]], None] | None = None
    failed: dict[str, str] = field(default_factory=dict)
    ready: dict[str, int | None] = field(default_factory=dict)

    @property
    def files(self) -> Files:
        """The files that supervisord reads."""
        return Files(self.desired, self.paths)

    def run(self, waits: Iterator[float]) -> None:
        """Go through ``waits``, which `waiting` or `ending` has given, to its end."""
        for seconds in waits:
            self.clock.sleep(seconds)

    def start(self, names: Iterable[str]) -> None:
        """Write the programs of instances and have supervisord run them as they are wanted now."""
        self._start({name: self.desired.programs[name] for name in names})

    def start_watcher(self) -> None:
        """Have supervisord run the watcher."""
        self._start({WATCHER: self.files.watcher})

    def look_at(self, names: Collection[str]) -> None:
        """Find out which of ``names``, new ones that the watcher has not let in, are ready: see `ejected`."""
        found = [(s, i) for s in self.desired.services.values() for i in s.running if i.name in names]
        self.ready |= {name: seen.pid for name, seen in self._look().at(found).items() if seen.ready}

    def seen(self, wanted: Iterable[tuple[DesiredService, DesiredInstance]]) -> dict[str, ObservedInstance]:
        """Return instances as they are, by name, without an exchange through their ports."""
        return self._look(probe=False).at(wanted)

    def ejected(self, slots: Table = ()) -> frozenset[str]:
        """Return who is left out by the watcher's word; of the new not those that were found ready here."""
        out = left_out(self.paths, slots)
        return frozenset(name for name, entry in out.items() if entry.kind != "new" or name not in self.ready)

    def waiting(self, names: Collection[str], seconds: float) -> Iterator[float]:
        """Wait until instances are ready; who is not within ``seconds``, or cannot be, is noted in ``failed``.

        The seconds begin anew when one has become ready: of 1,024 that start together the last waits for all others.
        """
        deadline = self.clock.monotonic() + seconds
        wanted = {want.name: (service, want) for service in self.desired.services.values() for want in service.running}
        waiting = dict.fromkeys((name for name in names if name not in self.failed), "")
        self.ready = {name: pid for name, pid in self.ready.items() if name not in names}
        faulty: dict[str, tuple[str, float]] = {}
        while waiting:
            began, before = self.clock.monotonic(), len(waiting)
            found = self._look().at([wanted[name] for name in waiting])
            self.ready |= {name: seen.pid for name, seen in found.items() if seen.ready}
            out = self.ejected()
            for name, seen in found.items():
                if seen.ready and name not in self.failed and name not in out:
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
            if len(waiting) < before:
                deadline = self.clock.monotonic() + seconds
            if waiting and self.clock.monotonic() > deadline:
                self.failed |= waiting
                return
            if waiting:  # a look at 1,024 takes a second or more, which those that start could use
                yield max(_READY, self.clock.monotonic() - began)

    def living(self, names: Collection[str]) -> Iterator[float]:
        """Wait until the processes of ``names`` that were ready have lived for ``min_ready``; others have ``failed``.

        One may have ended since, as the first process of a daemon that goes into the background when its port is open.
        """
        lives = {i.name: s.service.min_ready or 0.0 for s in self.desired.services.values() for i in s.running}
        watched = {name: lives[name] for name in names if name not in self.failed and name in self.desired.programs}
        began = self.clock.monotonic()
        while watched := {n: s for n, s in watched.items() if self.clock.monotonic() - began < s}:
            yield _ALIVE
            now = self.supervisor.programs()
            for name in [n for n in watched if n not in now or now[n].pid != self.ready.get(n)]:
                self.failed[name] = self.why_ended(name, watched.pop(name))

    def why_ended(self, name: str, seconds: float) -> str:
        """Return in words why ``name``, which was ready, did not live for ``seconds``."""
        found = [(s, i) for s in self.desired.services.values() for i in s.instances if i.name == name]
        return self.seen(found)[name].fault or ended_early(self.paths, name, seconds)

    def ending(self, names: Collection[str], how: Ending, *, alone: bool = False) -> Iterator[float]:
        """End the processes of ``names`` and have every supervisord forget them: only `start` starts them again.

        ``alone``: no supervisord runs. Raises PortfleetError for one that outlives SIGKILL.
        """
        if not names:
            return
        alone = alone or not self.supervisor.running()
        members = self.members()
        found = {name: members.of(name) for name in names}
        orders = {name: Order(how, self.files.stop_signal(name), self._stop_timeout(name)) for name in names}
        if not alone:
            self.supervisor.stop(*names)
        for number in {order.signal for order in orders.values()}:
            self._tell_others({name: there for name, there in found.items() if orders[name].signal is number}, number)
        began = self.clock.monotonic()
        while left := self._left(names, found, alone=alone):
            spent = self.clock.monotonic() - began
            due = [(name, number) for name in left for number in orders[name].due(spent)]
            for number in (signal.SIGTERM, signal.SIGKILL):
                self._signal([name for name, sent in due if sent is number], found, number, alone=alone)
            if lasting := [name for name in left if orders[name].given_up(spent)]:
                raise PortfleetError(
                    f"{', '.join(lasting)} has not ended by SIGKILL",
                    hint=f"see what it waits for: portfleet logs {lasting[0]}",
                )
            yield _ENDED
        for name in names:  # a supervisord that starts anew starts every program that it finds
            self.files.forget(name)
        if not alone:
            self._reload()

    def kill(self, name: str) -> None:
        """Kill a process that hangs; supervisord starts it again if it is wanted."""
        self._signal([name], {name: self.members().of(name)}, signal.SIGKILL)

    def members(self) -> Members:
        """Look at all processes of all instances."""
        alone = not self.supervisor.running()
        programs = {} if alone else self.supervisor.programs()
        leaders = {name: info.pid for name, info in programs.items() if info.pid is not None}
        manager = None if alone else self.supervisor.pid()
        return adopted.members(self.paths, leaders, supervisor=manager, ports=self.desired.local_ports())

    def running(self) -> set[str]:
        """Return the programs that run, supervisord among them."""
        supervisord = supervisor_pid(self.paths)
        known = self.supervisor.programs() if self.supervisor.running() else {}
        found = {name for name, info in known.items() if info.pid is not None}
        return found | set(adopted.alive(self.paths)) | ({"supervisord"} if supervisord else set())

    def _stop_timeout(self, name: str) -> float:
        """Return how many seconds a program has from its stop signal to SIGKILL."""
        instance = parse_instance(name)
        want = self.desired.configured.get(instance.service) if instance else None
        return want.service.stop_timeout if want else Service.stop_timeout

    def _start(self, programs: Mapping[str, Program]) -> None:
        known, members = self.supervisor.programs(), self.members()
        idle = [name for name in programs if name not in known or known[name].state not in UP]
        ending = {name for name, info in known.items() if info.pid is not None}
        left = [name for name in idle if name in ending or members.of(name)]
        self.run(self.ending(left, EMPTIED))  # what is of an earlier start
        self.desired = self.desired.moved(programs.keys())
        strangers = self._look(probe=False).strangers(self.desired)
        if taken := [f"{name} is not started: {strangers[name]}" for name in programs if name in strangers]:
            raise PortfleetError("; ".join(taken), hint="end what listens there, or choose other ports in fleet.toml")
        self.files.write(programs)
        content.note(self.paths, (programs[name] for name in idle))
        for name in programs:
            (self.paths.programs / f"{name}.adopted").unlink(missing_ok=True)
        changed = self._reload()
        if outdated := {name: program for name, program in programs.items() if name in changed}:
            self.run(self.ending(outdated, EMPTIED))
            self.files.write(outdated)
            content.note(self.paths, outdated.values())
            self._reload()
        # A running one it would look at again, and find that its command is away, which is nothing to it.
        running = {name for name, info in self.supervisor.programs().items() if info.state in UP}
        self.failed |= self.supervisor.start(*(name for name in programs if name not in running))

    def _reload(self) -> set[str]:
        """Have supervisord read its files again, put right if it cannot; return the programs it runs otherwise."""
        try:
            return self.supervisor.reload()[1]
        except Unreadable:
            self.files.put_right()
        return self.supervisor.reload()[1]

    def _look(self, *, probe: bool = True) -> Looking:
        programs = self.supervisor.programs()
        if self.look:
            return self.look(programs)
        return Look(programs, self.paths, probe=probe, ports=self.desired.local_ports(), forget=self.forget)

    def _left(self, names: Iterable[str], found: dict[str, list[Process]], *, alone: bool) -> list[str]:
        """Return those of which a process is there yet; supervisord is to forget the others, once it has reaped them.

        When all of an instance has ended that was ``found``, it is looked for what that has started meanwhile, which is
        told to end as well. One that was started once more, as by a watcher that saw it end, is stopped once more.
        """
        programs = {} if alone else self.supervisor.programs()
        if again := [name for name in names if name in programs and programs[name].state in UP]:
            self.supervisor.stop(*again)
        ended = [name for name in names if name in programs and programs[name].pid is None]
        gone = self.supervisor.remove(*ended) if ended else set()
        left = [name for name in names if (name in programs and name not in gone) or _any_alive(found[name])]
        if quiet := [name for name in names if name not in left]:
            members = self.members()
            more = {name: there for name in quiet if (there := members.of(name))}
            found |= more
            self._tell_others(more, signal.SIGTERM)
            left += more
        return left

    def _signal(
        self, names: Collection[str], found: Mapping[str, list[Process]], number: signal.Signals, *, alone: bool = False
    ) -> None:
        if not names:
            return
        if not alone:
            self.supervisor.signal(number.name.removeprefix("SIG"), *names)
        self._tell_others({name: found[name] for name in names}, number)

    def _tell_others(self, found: Mapping[str, list[Process]], number: signal.Signals) -> None:
        """Send a signal to all processes that were ``found`` but those to which supervisord sends it."""
        programs = self.supervisor.programs() if self.supervisor.running() else {}
        for name, there in found.items():
            leader = programs[name].pid if name in programs else None
            send([process for process in there if process.pid != leader], number)


def _any_alive(found: Iterable[Process]) -> bool:
    return any(process.alive for process in found)


def _hopeless(seen: ObservedInstance) -> bool:
    """Return whether waiting longer cannot help: a crash loop, a broken config, the wrong address."""
    return seen.fault is not None and seen.program in AT_REST | {"RUNNING"}


def _not_up(seen: ObservedInstance) -> str:
    if seen.ready:
        return "ready, the watcher has not let it in yet"
    return f"supervisord has it {seen.program}" if seen.program else "supervisord does not know it"
