"""The parts of a box in memory that tell what is done to them."""

from __future__ import annotations

from collections import Counter

from portfleet.core.changes import DropInstance, Route, SetInstance, Transaction
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.states import RUNNING
from support.fake_daemons import Fleet
from support.fake_plane import FakePlane
from support.fake_world import FakeSupervisor


class LoggingPlane(FakePlane):
    """Tells what clients notice: slots that move, and instances that come or go."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self._told = log
        self.refuses = 0

    def run(self, transaction: Transaction) -> None:
        if self.refuses:
            self.refuses -= 1
            raise PortfleetError("cannot change the rules", code=Exit.KERNEL)
        before = {
            change.rule.name: self.read_slots(change.rule.name) for change in transaction if isinstance(change, Route)
        }
        super().run(transaction)
        for change in transaction:
            if isinstance(change, Route) and Counter(before[change.rule.name]) != Counter(change.table):
                self._told.append(f"slots {shares(change.table)}")
            elif isinstance(change, SetInstance | DropInstance):
                name = change.rule.name if isinstance(change, SetInstance) else change.name
                words = "rules of" if isinstance(change, SetInstance) else "no rules of"
                self._told.append(f"{words} {name.partition('-')[2]}")


class LoggingSupervisor(FakeSupervisor):
    """Tells of processes that start and end, whose connections end with them."""

    fleet: Fleet
    log: list[str]
    away = False

    def start(self, *names: str) -> dict[str, str]:
        for name in names:
            running = name in self.running_names()
            super().start(name)
            if not running:
                self.log.append(f"start {name.partition('-')[2]}")
        return {}

    def signal(self, signal: str, *names: str) -> None:
        for name in names:
            before = self.running_names().get(name)
            super().signal(signal, name)
            if before is not None and self.running_names().get(name) != before:
                self.log.append(f"end {name.partition('-')[2]}" + (" by SIGKILL" if signal == "KILL" else ""))
                self.fleet.stopped(name)

    def crash(self, name: str) -> None:
        """End a process as a defect of its own does: it is started again."""
        if name in self.known and self.known[name].state in RUNNING:
            self.known[name].state = "STOPPED"
            self.fleet.stopped(name)
            super().start(name)

    def running_names(self) -> dict[str, int]:
        """Return {program: pid} of those with a process."""
        if self.away:
            raise PortfleetError("supervisord does not answer")
        return {name: info.pid for name, info in self.programs().items() if info.pid is not None}


def shares(table: tuple[str | None, ...]) -> str:
    """Say how many slots each instance has."""
    found = Counter(name.partition("-")[2] for name in table if name)
    return ", ".join(f"{name} {found[name]}" for name in sorted(found)) or "nowhere"
