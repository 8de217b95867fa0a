"""A fleet in memory that is operated: the real commands, engine, ejector and programs, on fakes and in virtual time.

``Box`` is the machine. Its watcher can be killed at any point and another is started; what a killed one still tries to
do has no effect.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import portfleet.__main__
from portfleet.apply.applied import Applied
from portfleet.apply.context import Context
from portfleet.apply.programs import Programs
from portfleet.core.desired import Desired, DesiredInstance
from portfleet.core.errors import PortfleetError
from portfleet.core.journal import HistoryEntry, Journal
from portfleet.core.observed import Observed, Out
from portfleet.core.operations import VERBS
from portfleet.core.program import Program
from portfleet.core.states import Presence
from portfleet.daemons.capability import Heard
from portfleet.operations.engine import Engine
from portfleet.operations.world import World as OperationsWorld
from portfleet.store import faults, locks
from portfleet.store.log import Log
from portfleet.store.out import write_out
from portfleet.watch.ejector import Ejector, fresh
from portfleet.watch.judge import Judge
from portfleet.watch.roster import Roster
from support import virtual_time
from support.fake_daemons import FakeDaemons, Fleet
from support.fake_parts import LoggingPlane, LoggingSupervisor, shares
from support.fake_world import World
from support.fleets import fleet

P = ParamSpec("P")
T = TypeVar("T")

#: Three instances a colour of a daemon that hands off, at most five.
ECHO = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}"]
environment = { RELEASE = "{release}" }
release = "v1"
ports = "7100-7109"
instances = 3
slots = 256
start_timeout = "8s"
min_ready = "off"
[service.echo.drain]
rate = 10
deadline = "60s"
"""
#: The same of a daemon that is not ours.
REDIS = ECHO.replace('"portfleet-daemon"', '"redis-server"')


class Killed(BaseException):
    """The watcher was killed; nothing that it does after that has an effect."""


class Box:
    """A machine in memory with one fleet. ``log`` is what was done, in order.

    ``at`` is called at each named point (`store.faults`); ``points`` were passed. ``out``: who is ejected.
    """

    def __init__(self, directory: Path, text: str = ECHO, **connections: int) -> None:
        """Bring the fleet up with so many connections each, as in ``blue_1=5``."""
        self.log: list[str] = []
        self.kernel = LoggingPlane(self.log)
        self.fake = World(directory, kernel=self.kernel)
        self.clock, self.paths, self.store = self.fake.clock, self.fake.paths, self.fake.store
        self.fake.supervisor = self.supervisor = LoggingSupervisor(self.paths)
        self.daemons = Fleet(self.clock, self.log, self.supervisor.running_names, plain="redis-server" in text)
        self.supervisor.fleet, self.supervisor.log = self.daemons, self.log
        self.told = io.StringIO()
        self.generation = 0
        #: Seconds between two looks at what is to happen later, and at who is ready.
        self.moment = 0.05
        self.at: Callable[[str], None] = lambda _: None
        self.points: list[str] = []
        self.out: dict[str, Out] = {}
        self._watcher: OperatedWorld | None = None
        self._later: list[tuple[float, Callable[[], None]]] = []
        self.text = text
        for path in (self.paths.config, self.paths.applied):
            path.write_text(text)
        self.fake.apply(fleet(text))
        self.log.clear()
        self.daemons.connections.update({f"echo-{name.replace('_', '-')}": n for name, n in connections.items()})

    @property
    def journal(self) -> Journal:
        found = self.store.read()
        assert found is not None
        return found

    def slots(self) -> str:
        """Return how many slots each instance has, as in ``blue-1 1366, blue-2 1365``."""
        return shares(self.kernel.read_slots("echo"))

    def connections(self) -> dict[str, int]:
        """Return the connections of those that have any."""
        return {name.partition("-")[2]: count for name, count in sorted(self.daemons.connections.items()) if count}

    def processes(self) -> str:
        """Return the instances that have a process."""
        names = self.supervisor.running_names()
        return ", ".join(sorted(name.partition("-")[2] for name in names if name.startswith("echo-")))

    @property
    def lost(self) -> dict[str, int]:
        """The connections that ended with their process."""
        return dict(self.daemons.lost)

    def wanted(self) -> dict[str, str]:
        """Return what is asked of instances, of those of which something is."""
        return {name.partition("-")[2]: asked.wanted for name, asked in self.journal.services["echo"].asked.items()}

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Have something happen so many seconds from now, while a watcher is at work."""
        self.plan_events([(self.clock.slept + seconds, what)])

    def plan_events(self, events: Iterable[tuple[float, Callable[[], None]]]) -> None:
        """Have things happen at their moments of the clock (`later`), in the order of these."""
        self._later = sorted([*self._later, *events], key=lambda event: event[0])

    def forget_events(self) -> None:
        """Have nothing happen later of what was planned."""
        self._later.clear()

    def eject(self, *names: str) -> None:
        """Have instances, such as ``blue-1``, be out by the watcher's word."""
        self.out = {f"echo-{name}": fresh("probe", "hangs") for name in names}
        write_out(self.paths.out, self.out)
        if self._watcher is not None:
            self._watcher.ejector.out.update(self.out)

    def command(self, *words: str) -> str:
        """Run a verb with --no-wait, as an operator does, and return what it prints; raises PortfleetError."""
        options, verb = portfleet.__main__.parse([*words, "--no-wait"])
        assert verb is not None
        with self._watching(), redirect_stdout(io.StringIO()) as printed:
            verb.run(options, self.context())
        return printed.getvalue()

    def context(self) -> Context:
        """Return what a command works with."""
        return _CommandContext(self)

    def operate(self, *words: str) -> HistoryEntry:
        """Run a verb and let the watcher advance it to its end; return what came of it."""
        self.command(*words)
        return self.finish()

    def finish(self, *, seconds: float = 3600) -> HistoryEntry:
        """Let watchers advance what runs to its end, another after each that is killed; return what came of it."""
        original, faults.point = faults.point, self._point
        try:
            with self._watching():
                virtual_time.run(self.clock, self._advance(seconds))
        finally:
            faults.point = original
        return self.journal.history[-1]

    async def _advance(self, seconds: float) -> None:
        deadline = self.clock.slept + seconds
        while True:
            generation, world = self.generation, self.world()
            self._watcher = world
            engine = asyncio.create_task(Engine(world).run())
            while self.journal.operations and self.generation == generation and not engine.done():
                assert self.clock.slept < deadline, (self.log, self.journal.operations)
                await asyncio.sleep(self.moment)
                self._admit(world)
                while self._later and self._later[0][0] <= self.clock.slept:
                    self._later.pop(0)[1]()
            engine.cancel()
            await asyncio.gather(
                engine, *(t for t in asyncio.all_tasks() if t is not asyncio.current_task()), return_exceptions=True
            )
            if not self.journal.operations:
                self._admit(world)
                return

    def _admit(self, world: OperatedWorld) -> None:
        """Let in new ones that are ready, as a watcher does."""
        for name in [name for name in world.ejector.pending if self.fake.up(name)]:
            want = next(i for i in world.applied.desired().services["echo"].instances if i.name == name)
            with suppress(PortfleetError):  # a kernel that refuses: it is let in at a later look
                world.ejector.admit(world.applied.desired().services["echo"], want.name)

    def kill(self) -> None:
        """Kill the watcher, which is at work."""
        self.generation += 1
        raise Killed

    def world(self) -> OperatedWorld:
        """Start a watcher: everything that it knows is read anew."""
        applied, log = Applied(Context(self.paths)), Log(as_json=False, file=self.told)
        roster = Roster(self.paths, applied)
        ejector = Ejector(
            plane=self.kernel, paths=self.paths, latest=roster.latest, forget_unanswered=lambda _: None, log=log
        )
        ejector.out.update(self.out)
        judge = Judge(roster=roster, ejector=ejector, log=log, blind=str, forget=lambda _: None, pid_of=lambda _: None)
        roster.changed = judge.reloaded
        roster.reload()
        generation = self.generation

        def alive() -> None:
            if self.generation != generation:
                raise Killed

        return OperatedWorld(
            paths=self.paths, store=self.store, applied=applied, plane=self.kernel, supervisor=self.supervisor,
            daemons=FakeDaemons(self.daemons, alive), ejector=ejector, log=log, wake=alive, clock=self.clock,
            box=self, alive=alive,
        )  # fmt: skip

    def _point(self, name: str) -> None:
        self.points.append(name)
        verb, _, phase = name.partition(" ")
        if verb in VERBS and ":" not in phase:
            self.log.append(f"[{phase}]")
        self.at(name)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Do as if a watcher ran."""
        with self.paths.watch_lock.open("a") as lock:
            if not locks.held(self.paths.watch_lock):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class OperatedWorld(OperationsWorld):
    """The world of one watcher of a box: nothing blocks, and nothing goes on once it was killed."""

    def __init__(self, *, box: Box, alive: Callable[[], None], **parts: Any) -> None:
        super().__init__(**parts)
        self._box, self._alive = box, alive

    def programs(self, desired: Desired) -> Programs:
        return self._box.fake.programs(desired)

    def prove(self, programs: Iterable[Program]) -> dict[str, str]:
        return {}

    def observe(self, desired: Desired, only: Collection[str] | None = None) -> Observed:
        found = self._box.fake.observe(desired)
        return replace(found, supervisord=Presence.ABSENT) if self._box.supervisor.away else found

    async def in_thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        self._alive()
        await asyncio.sleep(0)
        return work(*arguments, **named)

    async def pause(self, seconds: float) -> None:
        self._alive()
        await asyncio.sleep(seconds)
        self._alive()


class _CommandContext(Context):
    """What a command works with in a box."""

    def __init__(self, box: Box) -> None:
        super().__init__(box.paths)
        self._box = box
        self.__dict__ |= {"plane": box.kernel, "supervisor": box.supervisor, "store": box.store}

    def prove(self, programs: Iterable[Program]) -> dict[str, str]:
        return {}

    def observe(
        self,
        desired: Desired,
        *,
        probe: bool = True,
        by_word: bool = False,
        only: Collection[str] | None = None,
        there: Mapping[str, bytes | None] | None = None,
    ) -> Observed:
        observed = self._box.fake.observe(desired)
        counts = self._box.daemons.connections
        seen = {name: replace(one, connections=counts[name]) for name, one in observed.instances.items()}
        return replace(observed, instances=seen)

    def pids(self) -> dict[str, int]:
        return self._box.daemons.pids()

    def hear(self, wants: Iterable[DesiredInstance], pids: Mapping[str, int]) -> dict[str, Heard]:
        return {want.name: self._box.daemons.heard(want.name) for want in wants}
