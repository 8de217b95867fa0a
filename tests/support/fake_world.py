"""A machine in memory for plans: the fake kernel and a fake supervisord, changed by the real ``Executor``.

After every step it checks what must hold for clients at every moment, so that a plan in a wrong order fails here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from portfleet.apply.execute import Executor
from portfleet.apply.files import Files
from portfleet.apply.programs import Programs
from portfleet.core import steps as s
from portfleet.core.derive import make_desired
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.journal import Journal
from portfleet.core.model import Fleet
from portfleet.core.observed import Observed, ObservedInstance, Out
from portfleet.core.paths import Paths, resolve
from portfleet.core.plan import Plan, make_plan
from portfleet.core.program import WATCHER
from portfleet.core.states import RUNNING
from portfleet.store.directories import make_directories
from portfleet.store.journal import JournalStore
from portfleet.store.out import write_out
from portfleet.supervise.program_digest import digest
from portfleet.supervise.supervisor import ProgramInfo, Supervisor
from support.fake_clock import FakeClock
from support.fake_plane import FakePlane


@dataclass
class Running:
    """A program that supervisord runs: the file it was started from, and its state."""

    text: str
    state: str
    pid: int

    @property
    def port(self) -> int:
        """The port its process listens on, as its environment told it at its start."""
        return int(self.text.split('PORTFLEET_PORT="')[1].split('"')[0])


class FakeSupervisor(Supervisor):
    """Does to ``known`` what supervisord does to processes; one ends at once unless it is ``stubborn``.

    ``stubborn`` says how many SIGTERMs more than the first an instance needs to end; ``signals`` are those that were
    sent, the first of a stop too.
    """

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths.supervisor_socket)
        self._paths = paths
        self.known: dict[str, Running] = {}
        self.stubborn: dict[str, int] = {}
        self.signals: list[tuple[str, str]] = []
        self._pids = itertools.count(1 << 23)  # more than any machine gives (proc_sys_kernel(5), pid_max)

    def running(self) -> bool:
        return True

    def programs(self) -> dict[str, ProgramInfo]:
        return {
            name: ProgramInfo(
                name,
                known.state,
                known.pid if known.state in RUNNING else None,
                0,
                0,
                0,
                "",
                digest(known.text.encode()),
            )
            for name, known in self.known.items()
        }

    def reload(self) -> tuple[set[str], set[str], set[str]]:
        files = {path.stem: path.read_text() for path in self._paths.programs.glob("*.conf")}
        changed = {name for name, text in files.items() if name in self.known and self.known[name].text != text}
        return files.keys() - self.known.keys(), changed, self.known.keys() - files.keys()

    def pid(self) -> int:
        return 1 << 22

    def start(self, *names: str) -> dict[str, str]:
        for name in names:
            if name not in self.known:
                text = (self._paths.programs / f"{name}.conf").read_text()
                self.known[name] = Running(text, "RUNNING", next(self._pids))
            elif self.known[name].state not in RUNNING:
                self.known[name].state, self.known[name].pid = "STARTING", next(self._pids)
        return {}

    def stop(self, *names: str) -> None:
        for name in filter(self.known.__contains__, names):
            self.known[name].state = "STOPPING" if self.known[name].state in RUNNING else "STOPPED"
            self.signal("TERM", name)

    def signal(self, signal: str, *names: str) -> None:
        for name in names:
            self.signals.append((name, signal))
            known, left = self.known.get(name), self.stubborn.get(name, 0)
            if signal == "TERM" and left:
                self.stubborn[name] = left - 1
            elif known is not None and known.state in RUNNING:
                told, known.state = known.state == "STOPPING", "STOPPED"
                if not told:
                    FakeSupervisor.start(self, name)  # as supervisord does with one that it was not told to stop

    def remove(self, *names: str) -> set[str]:
        gone = {name for name in names if name not in self.known or self.known[name].state not in RUNNING}
        for name in gone:
            self.known.pop(name, None)
        return gone


@dataclass
class World:
    """Everything a plan sees and changes.

    ``doomed`` never become ready, nor does what is started with the text ``broken``; ``busy`` have connections that do
    not end. ``remotes`` are those on other boxes, who serve unless they are doomed. ``slow``: looks until one is ready;
    ``ejected``: looks until the watcher, whose lock a test holds, lets one in.
    """

    directory: Path
    doomed: set[str] = field(default_factory=set)
    broken: str | None = None
    busy: set[str] = field(default_factory=set)
    remotes: frozenset[str] = frozenset()
    slow: dict[str, int] = field(default_factory=dict)
    ejected: dict[str, int] = field(default_factory=dict)
    kernel: FakePlane = field(default_factory=FakePlane)

    def __post_init__(self) -> None:
        self.paths = resolve(home=str(self.directory), config=None)
        make_directories(self.paths)
        self.supervisor, self.store = FakeSupervisor(self.paths), JournalStore(self.paths.journal)
        self.clock = FakeClock()

    def desired(self, fleet: Fleet) -> Desired:
        desired = make_desired(fleet, self.store.read() or Journal(), self.paths)
        self.remotes = frozenset(want.name for want in desired.instances() if want.rule.remote)
        return desired

    def ready(self) -> set[str]:
        """Return the instances that take connections on the port that the kernel sends them to."""
        rules = self.kernel.observe().instances
        return {
            name
            for name, known in self.supervisor.known.items()
            if self.up(name) and ((rule := rules.get(name)) is None or known.port == rule.port)
        } | (self.remotes - self.doomed)

    def up(self, name: str) -> bool:
        """Return whether the instance's process is ready, wherever it listens."""
        known = self.supervisor.known.get(name)
        runs = known is not None and known.state == "RUNNING"
        return (runs or name in self.remotes) and not self.hopeless(name)

    def hopeless(self, name: str) -> bool:
        """Return whether the instance will not become ready, as it is."""
        known = self.supervisor.known.get(name)
        return name in self.doomed or (known is not None and self.broken is not None and self.broken in known.text)

    def programs(self, desired: Desired) -> Programs:
        """Return what starts and ends processes here."""
        return Programs(desired, self.supervisor, self.paths, self.clock, lambda _: FakeLook(self))

    def executor(self, desired: Desired) -> Executor:
        """Return what does the steps of a plan here."""
        return Executor(self.programs(desired), self.kernel, self.store, say=lambda _: None)

    @property
    def out(self) -> dict[str, Out]:
        """Who is left out by the watcher's word."""
        return {name: Out("died", "2026-01-01T00:00:00Z", "its process has ended") for name in self.ejected}

    def let_in(self) -> None:
        """Have the watcher look once: it lets in whoever's time has come."""
        self.ejected = {name: left - 1 for name, left in self.ejected.items() if left}
        write_out(self.paths.out, self.out)

    def seen(self, name: str) -> ObservedInstance:
        """Return an instance as it is."""
        known = self.supervisor.known.get(name)
        up = known is not None and known.state in ("RUNNING", "STARTING")
        return ObservedInstance(
            program=known.state if known else None,
            pid=known.pid if known and up else None,
            ready=self.up(name),
            fault="doomed" if (up or name in self.remotes) and self.hopeless(name) else None,
            connections=7 if name in self.busy and up else 0,
        )

    def observe(self, desired: Desired) -> Observed:
        names = {*self.supervisor.known, *(want.name for want in desired.instances())} - {WATCHER}
        seen = {name: self.seen(name) for name in names}
        files = Files(desired, self.paths)
        outdated = {
            name
            for name, program in desired.programs.items()
            if name in self.supervisor.known and self.supervisor.known[name].text != files.text_of(program)
        }
        return Observed(
            plane=self.kernel.observe(),
            instances=seen,
            outdated=frozenset(outdated),
            out=self.out,
            watcher=WATCHER in self.supervisor.known,
        )

    def plan(self, fleet: Fleet) -> tuple[Desired, Plan]:
        """Return what shall be, and the plan that leads there from what is."""
        desired = self.desired(fleet)
        differs = self.store.read() != desired.journal
        return desired, make_plan(desired, self.observe(desired), journal_differs=differs)

    def apply(self, fleet: Fleet) -> Desired:
        """Carry out the plan for ``fleet`` and give what was to be; checks the clients' rights after every step."""
        desired, plan = self.plan(fleet)
        executor = self.executor(desired)
        watch = Watch(self, desired)
        for step in plan.steps:
            executor.run([step])
            watch.check(step)
        return desired

    def slots(self) -> dict[str, tuple[str | None, ...]]:
        return dict(self.kernel.observe().slots)


class FakeLook:
    """One look at the machine: what supervisord has started is up by now, unless it is doomed."""

    def __init__(self, world: World) -> None:
        self._world = world

    def at(self, wanted: Iterable[tuple[DesiredService, DesiredInstance]], /) -> dict[str, ObservedInstance]:
        self._world.let_in()
        return {want.name: self._at(want) for _, want in wanted}

    def strangers(self, _: Desired, /) -> dict[str, str]:
        return {}

    def _at(self, want: DesiredInstance) -> ObservedInstance:
        known = self._world.supervisor.known.get(want.name)
        if known is not None and known.state == "STARTING":
            known.state = "RUNNING"
        seen = self._world.seen(want.name)
        if seen.ready and self._world.slow.get(want.name):
            self._world.slow[want.name] -= 1
            return replace(seen, ready=False, waiting="starts")
        return seen


class Watch:
    """What clients may rely on while a plan is carried out.

    A slot that led to a ready instance never leads nowhere, to one that is not ready, or to a port where no process
    listens, as long as another wanted instance of the service could serve it; and of a service with two or more that
    serve, one always goes on serving.
    """

    def __init__(self, world: World, desired: Desired) -> None:
        self._world, self._desired = world, desired
        self._good = self._served()
        self._several = {name for name in self._good if len(self._serving(name)) > 1}

    def _served(self) -> dict[str, set[int]]:
        """Return the slots of each wanted service that lead to an instance that serves."""
        ready = self._world.ready()
        return {
            service: {slot for slot, owner in enumerate(owners) if owner in ready}
            for service, owners in self._world.slots().items()
            if service in self._desired.services
        }

    def _serving(self, service: str) -> set[str | None]:
        """Return the ready instances of ``service`` that have slots."""
        return {*self._world.slots().get(service, ())} & self._world.ready()

    def check(self, step: s.Step) -> None:
        now, ready = self._served(), self._world.ready()
        for service, slots in self._good.items():
            size = self._desired.services[service].service.slots
            lost = {slot for slot in slots if slot < size} - now.get(service, set())
            if any(want.takes and want.name in ready for want in self._desired.services[service].instances):
                assert not lost, f'after "{step.describe()}" {len(lost)} slots of {service} lead to no instance'
        for service in self._several:
            assert self._serving(service), f'after "{step.describe()}" no instance of {service} serves'
        self._good = {service: self._good.get(service, set()) | slots for service, slots in now.items()}
