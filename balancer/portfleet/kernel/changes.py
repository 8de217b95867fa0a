"""What can be asked of a data plane, as values: a transaction is a tuple of them, done wholly or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from portfleet.model import Affinity, Listen

#: Slot → (instance it points to now, instance it shall point to); None is nowhere.
Moves = Mapping[int, tuple[str | None, str | None]]


@dataclass(frozen=True)
class InstanceRule:
    """How a new connection gets to an instance. ``remote`` None: to ``port`` on this box."""

    name: str
    mark: int
    port: int
    remote: Listen | None = None


@dataclass(frozen=True)
class ServiceRule:
    """How a new connection of a service gets to a slot."""

    name: str
    affinity: Affinity
    seed: int
    slots: int


@dataclass(frozen=True)
class SetBase:
    """Make the fixed part (hooks, guard) as it must be, for the fleet whose identity is ``home``."""

    home: str


@dataclass(frozen=True)
class SetService:
    """Make a service's rules as they must be; its slots stay as they are."""

    rule: ServiceRule


@dataclass(frozen=True)
class SetInstance:
    """Make an instance's rules as they must be; established connections are not touched."""

    rule: InstanceRule


@dataclass(frozen=True)
class SetPorts:
    """Guard exactly these ranges of instance ports (inclusive) against outsiders."""

    ranges: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class SetListens:
    """Let clients in by ``add`` and no longer by ``remove``; each maps a listen address to its service."""

    add: Mapping[Listen, str] = field(default_factory=dict)
    remove: Mapping[Listen, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PointSlots:
    """Point slots of a service at instances.

    Fails as a whole where a slot points nowhere and ``moves`` names an old instance, or the other way round (nftables
    deletes an element by its key: *which* instance it pointed to is not compared, the table lock is for that).
    """

    service: str
    moves: Moves


@dataclass(frozen=True)
class Detour:
    """Send new connections of the instance ``name`` to the instance ``to``, until ``SetInstance`` sets it right again.

    Two rules instead of thousands of slots: how an ejection takes hold within a millisecond, before its slots move.
    """

    name: str
    to: str


@dataclass(frozen=True)
class DropInstance:
    """Forget an instance to which nothing points any more."""

    name: str


@dataclass(frozen=True)
class DropService:
    """Forget a service that nobody listens for any more, with its slots."""

    name: str


@dataclass(frozen=True)
class DropAll:
    """Remove everything of ours and nothing else."""


Change = (
    SetBase
    | SetService
    | SetInstance
    | SetPorts
    | SetListens
    | PointSlots
    | Detour
    | DropInstance
    | DropService
    | DropAll
)
Transaction = tuple[Change, ...]


@dataclass(frozen=True)
class KernelState:
    """What a data plane has now.

    ``home`` is None where there is nothing of ours. A service or instance whose rules are not what was set (a hand
    edit) is listed in ``drift`` by name ("" for the fixed part) and its rule in the maps may be None.
    """

    home: str | None = None
    services: Mapping[str, ServiceRule | None] = field(default_factory=dict)
    instances: Mapping[str, InstanceRule | None] = field(default_factory=dict)
    slots: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    listens: Mapping[Listen, str] = field(default_factory=dict)
    ports: frozenset[tuple[int, int]] = frozenset()
    drift: frozenset[str] = frozenset()


class Kernel(Protocol):
    """A data plane. Every method raises PortfleetError (exit 3) when it is refused; then nothing was changed."""

    def observe(self) -> KernelState:
        """Read back everything of ours."""

    def read_slots(self, service: str) -> tuple[str | None, ...]:
        """Read one service's slots; empty where there are none. Cheap enough for every ejection."""

    def recover(self) -> KernelState:
        """Read back everything as `observe` does, with marks, ports and seeds read out of the rules themselves.

        For a lost journal: rules that somebody edited are taken at their word; affinities are not read.
        """

    def check(self, transaction: Transaction) -> None:
        """Ask whether ``transaction`` would be taken, changing nothing."""

    def run(self, transaction: Transaction) -> None:
        """Carry out ``transaction`` as one."""

    def text(self, transaction: Transaction) -> str:
        """Give ``transaction`` as the data plane's own language, for people and golden tests."""
