"""Daemons in memory: each has a number of connections, which are handed off, evicted, destroyed, or lost with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from portfleet.core.counters import Counters
from portfleet.core.desired import DesiredInstance
from portfleet.core.model import Service
from portfleet.core.status import DaemonState, Status
from portfleet.daemons.answers import ControlError
from portfleet.daemons.capability import Heard
from portfleet.daemons.handoff import HandoffFailed
from portfleet.daemons.relocation import Relocated
from portfleet.dataplane.interface import Hold
from support.fake_clock import FakeClock


@dataclass
class Fleet:
    """What the daemons of a box have. ``log`` is told what is done to connections.

    ``connections``: by instance; ``arriving``: those that come while it empties, one at each look. ``silent``: who
    hangs; ``lying``: {who lies: how many connections it says it has}; ``refusing``: {receiver: why it takes none};
    ``busy``: {sender: hand-offs until an earlier one has ended}. ``counted``: what instances count; left empty, each is
    asked ten times a second. ``ended``: connections that were evicted or closed; ``lost``: those that ended with their
    process. ``plain``: none has a control socket. ``rounds``: what comes of each relocation; all move if none is left.
    """

    clock: FakeClock
    log: list[str]
    pids: Callable[[], dict[str, int]]
    connections: Counter[str] = field(default_factory=Counter)
    arriving: Counter[str] = field(default_factory=Counter)
    silent: set[str] = field(default_factory=set)
    lying: dict[str, int] = field(default_factory=dict)
    refusing: dict[str, str] = field(default_factory=dict)
    busy: Counter[str] = field(default_factory=Counter)
    counted: dict[str, Counters] = field(default_factory=dict)
    evicting: dict[str, float] = field(default_factory=dict)
    ended: int = 0
    plain: bool = False
    lost: Counter[str] = field(default_factory=Counter)
    rounds: list[Relocated] = field(default_factory=list)
    _paced: float = 0.0
    _due: dict[str, float] = field(default_factory=dict)

    def stopped(self, name: str) -> None:
        """Take in that a process has ended, and its connections with it."""
        if lost := self.connections.pop(name, 0):
            self.lost[name] += lost
        self.evicting.pop(name, None)
        self.silent.discard(name)

    def pace(self) -> None:
        """Evict as many as were due since the last time this was called."""
        spent, self._paced = self.clock.slept - self._paced, self.clock.slept
        for name, rate in self.evicting.items():
            self._due[name] = self._due.get(name, 0.0) + rate * spent
            self._due[name] -= self.close(name, int(self._due[name]))

    def heard(self, name: str) -> Heard:
        """Return what an instance says of itself."""
        if name not in self.pids():
            return Heard(None, "it does not run", speaks=False)
        if self.plain:
            return Heard(None, "it has no control socket", speaks=False)
        if name in self.silent:
            return Heard(None, "control socket: no answer within 2000 ms")
        told = self.counted.get(name, Counters()) if self.counted else Counters(int(10 * self.clock.slept))
        count = self.connections[name]
        return Heard(Status(DaemonState.READY, count, 0, frozenset({1}), count, told.requests, told.errors))

    def close(self, name: str, count: int) -> int:
        """Close ``count`` connections, or as many as there are."""
        closed = min(self.connections[name], count)
        self.connections[name] -= closed
        self.ended += closed
        return closed


class FakeDaemons:
    """What operations ask of daemons (`operations.daemons.Daemons`), of those in a Fleet."""

    def __init__(self, fleet: Fleet, alive: Callable[[], None]) -> None:
        """``alive`` raises for a watcher that was killed: what it still asks has no effect."""
        self._fleet, self._alive = fleet, alive

    async def pids(self) -> dict[str, int]:
        self._alive()
        return self._fleet.pids()

    async def hear(self, wants: Iterable[DesiredInstance]) -> dict[str, Heard]:
        self._alive()
        return {want.name: self._fleet.heard(want.name) for want in wants}

    async def connections(self, service: Service, wants: Iterable[DesiredInstance]) -> dict[str, int]:
        self._alive()
        fleet, pids = self._fleet, self._fleet.pids()
        fleet.pace()
        found = {}
        for want in wants:
            if want.name in pids and fleet.arriving[want.name]:
                fleet.arriving[want.name] -= 1
                fleet.connections[want.name] += 1
            there = fleet.lying.get(want.name, fleet.connections[want.name])
            found[want.name] = there if want.name in pids else 0
        return found

    async def waiting(self, wants: Iterable[DesiredInstance]) -> int:
        self._alive()
        return sum(self._fleet.arriving[want.name] for want in wants)

    async def relocate(
        self, sender: DesiredInstance, box: str, *, count: int, ssh: str
    ) -> AsyncGenerator[Relocated, None]:
        self._alive()
        fleet = self._fleet
        last = fleet.rounds.pop(0) if fleet.rounds else Relocated(count)
        fleet.connections[sender.name] -= last.moved
        fleet.log.append(f"{last.moved} from {sender.name.partition('-')[2]} to {box}{ssh}")
        yield Relocated(last.moved)
        yield replace(last, done=True)

    async def hand_off(self, sender: DesiredInstance, receiver: DesiredInstance, *, count: int) -> int:
        self._alive()
        fleet = self._fleet
        assert sender.name != receiver.name
        if receiver.name not in fleet.pids():
            raise HandoffFailed(f"{receiver.name} does not answer", 0)
        if reason := fleet.refusing.get(receiver.name):
            raise HandoffFailed(reason, 0)
        if sender.name in fleet.silent or sender.name not in fleet.pids():
            raise HandoffFailed(f"{sender.name} does not answer", 0)
        if fleet.busy[sender.name]:
            fleet.busy[sender.name] -= 1
            raise HandoffFailed("a hand-off is under way", 0, busy=True)
        moved = min(count, fleet.connections[sender.name])
        fleet.connections[sender.name] -= moved
        fleet.connections[receiver.name] += moved
        fleet.log.append(f"{moved} from {_short(sender.name)} to {_short(receiver.name)}")
        return moved

    async def tell(self, want: DesiredInstance, *commands: str, **arguments: float) -> None:
        self._alive()
        fleet, name = self._fleet, want.name
        if fleet.plain or name in fleet.silent or name not in fleet.pids():
            raise ControlError(f"{name} does not answer")
        fleet.pace()
        command = commands[0]
        match command:
            case "evict":
                fleet.evicting[name] = arguments["rate"]
            case "drain":
                fleet.close(name, fleet.connections[name])
            case "resume":
                fleet.evicting.pop(name, None)
        words = [command, _short(name), *(f"{value:g}" for value in arguments.values())]
        fleet.log.append(" ".join(words))

    async def holds(self, wants: Iterable[DesiredInstance]) -> list[Hold]:
        self._alive()
        found = [(want.name, self._fleet.connections[want.name]) for want in wants]
        return [Hold(f"{name} {number}".encode()) for name, count in found for number in range(count)]

    async def end(self, holds: Sequence[Hold]) -> int:
        self._alive()
        return sum(self._fleet.close(one.name.decode().split()[0], 1) for one in holds)


def _short(name: str) -> str:
    return name.partition("-")[2]
