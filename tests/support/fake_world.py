"""A machine in memory for plans: the fake kernel and a fake supervisord, changed by the real ``Executor``.

After every step it checks what must hold for clients at every moment, so that a plan in a wrong order fails here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from portfleet.apply.execute import Executor
from portfleet.core import steps as s
from portfleet.core.derive import make_desired
from portfleet.core.desired import Desired
from portfleet.core.journal import Journal
from portfleet.core.model import Fleet
from portfleet.core.observed import Observed, ObservedInstance
from portfleet.core.paths import Paths, resolve
from portfleet.core.plan import Plan, make_plan
from portfleet.core.program import WATCHER
from portfleet.store.directories import make_directories
from portfleet.store.journal import JournalStore
from portfleet.supervise.ini import program_text
from portfleet.supervise.supervisor import ProgramInfo, Supervisor
from support.fake_kernel import FakeKernel


@dataclass
class Running:
    """A program that supervisord runs: the file it was started from, and its state."""

    text: str
    state: str = "RUNNING"

    @property
    def port(self) -> int:
        """The port its process listens on, as its environment told it at its start."""
        return int(self.text.split('PORTFLEET_PORT="')[1].split('"')[0])


class FakeSupervisor(Supervisor):
    """Does to ``running`` what supervisord does to processes; a stop takes as long as nothing."""

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths.supervisor_socket)
        self._paths = paths
        self.known: dict[str, Running] = {}

    def running(self) -> bool:
        return True

    def programs(self) -> dict[str, ProgramInfo]:
        return {name: ProgramInfo(name, known.state, 1, 0, 0, 0, "") for name, known in self.known.items()}

    def reload(self) -> tuple[set[str], set[str], set[str]]:
        files = {path.stem: path.read_text() for path in self._paths.programs.glob("*.conf")}
        changed = {name for name, text in files.items() if name in self.known and self.known[name].text != text}
        return files.keys() - self.known.keys(), changed, self.known.keys() - files.keys()

    def pid(self) -> int:
        return 1

    def start(self, name: str) -> None:
        if name not in self.known:
            self.known[name] = Running((self._paths.programs / f"{name}.conf").read_text())
        if self.known[name].state != "RUNNING":
            self.known[name].state = "STARTING"

    def stop(self, name: str) -> None:
        if name in self.known:
            self.known[name].state = "STOPPED"

    def remove(self, name: str) -> bool:
        if name in self.known and self.known[name].state != "STOPPED":
            return False
        self.known.pop(name, None)
        return True


@dataclass
class World:
    """Everything a plan sees and changes.

    ``doomed`` never become ready, nor does what is started with the text ``broken``; ``busy`` have connections that do
    not end. ``remotes`` are those on other boxes, who serve unless they are doomed.
    """

    directory: Path
    doomed: set[str] = field(default_factory=set)
    broken: str | None = None
    busy: set[str] = field(default_factory=set)
    remotes: frozenset[str] = frozenset()
    kernel: FakeKernel = field(default_factory=FakeKernel)

    def __post_init__(self) -> None:
        self.paths = resolve(home=str(self.directory), config=None)
        make_directories(self.paths)
        self.supervisor, self.store = FakeSupervisor(self.paths), JournalStore(self.paths.journal)

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

    def observe(self, desired: Desired) -> Observed:
        seen = {}
        for name in {*self.supervisor.known, *(want.name for want in desired.instances())} - {WATCHER}:
            known = self.supervisor.known.get(name)
            up = known is not None and known.state in ("RUNNING", "STARTING")
            seen[name] = ObservedInstance(
                program=known.state if known else None,
                pid=1 if up else None,
                ready=self.up(name),
                fault="doomed" if up and self.hopeless(name) else None,
                connections=7 if name in self.busy and up else 0,
            )
        outdated = {
            name
            for name, program in desired.programs.items()
            if name in self.supervisor.known and self.supervisor.known[name].text != program_text(program)
        }
        return Observed(
            plane=self.kernel.observe(),
            supervisor=True,
            instances=seen,
            outdated=frozenset(outdated),
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
        executor = _Executor(self, desired)
        watch = Watch(self, desired)
        for step in plan.steps:
            executor.run([step])
            watch.check(step)
        return desired

    def slots(self) -> dict[str, tuple[str | None, ...]]:
        return dict(self.kernel.observe().slots)


class _Executor(Executor):
    """The real one, but for how it sees that instances are ready: they are processes only by name here."""

    def __init__(self, world: World, desired: Desired) -> None:
        self.said: list[str] = []
        super().__init__(
            desired=desired,
            plane=world.kernel,
            supervisor=world.supervisor,
            paths=world.paths,
            say=self.said.append,
        )
        self._world = world

    def wait(self, names: Iterable[str], seconds: float) -> None:
        assert seconds > 0
        for name in names:
            known = self._world.supervisor.known.get(name)
            if known is not None and known.state == "STARTING":
                known.state = "RUNNING"
            if not self._world.up(name):
                self.failed[name] = "doomed"


class Watch:
    """What clients may rely on while a plan is carried out.

    A slot that led to a ready instance never leads nowhere, to one that is not ready, or to a port where nobody
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
                assert not lost, f'after "{step.describe()}" {len(lost)} slots of {service} lead to nobody'
        for service in self._several:
            assert self._serving(service), f'after "{step.describe()}" nobody of {service} serves'
        self._good = {service: self._good.get(service, set()) | slots for service, slots in now.items()}
