"""What can be asked of a data plane, as values: a transaction is a tuple of them, done wholly or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from portfleet.core.model import Affinity, Listen
from portfleet.core.slots import Table

#: Slot → (instance it points to now, instance it shall point to); None is nowhere.
Moves = Mapping[int, tuple[str | None, str | None]]

#: A service's tables: of its slots, of the local instances for clients of this box (only where the service has remote
#: ones), and of the order in which instances are tried where one is full (only where there is a limit).
Which = Literal["slots", "local", "overflow"]
#: Entries of the table of local instances; it serves clients on this box only.
LOCAL_SLOTS = 64


@dataclass(frozen=True)
class Sticky:
    """Remember a client's instance for ``seconds`` after its last connect; ``size`` is how many clients at most."""

    seconds: int
    size: int


@dataclass(frozen=True)
class InstanceRule:
    """How a new connection gets to an instance. ``remote`` None: to ``port`` on this box.

    ``limit``: connections at most, 0 for no limit; what is over it goes by the service's table "overflow" or, without
    ``spills``, is refused. `SetLimits` makes it count. ``key`` says what a sticky client is known by.
    """

    name: str
    mark: int
    port: int
    remote: Listen | None = None
    sticky: Sticky | None = None
    key: Affinity | None = None
    limit: int = 0
    spills: bool = True


@dataclass(frozen=True)
class ServiceRule:
    """How a new connection of a service gets to a slot.

    ``pins``: some sources have an instance of their own; ``remote``: clients of this box need a table without remote
    instances; ``tries``: how many entries the table "overflow" has, 0 without a limit; ``empty``: what a client of a
    slot that points nowhere gets (keep: what this box says itself); ``limited``: its instances have a limit.
    """

    name: str
    affinity: Affinity
    seed: int
    slots: int
    sticky: Sticky | None = None
    pins: bool = False
    remote: bool = False
    limited: bool = False
    tries: int = 0
    empty: Literal["keep", "refuse", "drop"] = "keep"

    @property
    def marked(self) -> bool:
        """Return whether an instance is also found by its mark, so that it must be known which take connections."""
        return self.pins or self.sticky is not None


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
class SetRemotes:
    """Translate the client's address too for the connections with exactly these marks: remote instances' ones."""

    marks: frozenset[int]


@dataclass(frozen=True)
class SetLimits:
    """Count the connections with the marks ``add``, {mark: instance}, against the instance's limit; not ``remove``."""

    add: Mapping[int, str] = field(default_factory=dict)
    remove: frozenset[int] = frozenset()


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
    which: Which = "slots"


@dataclass(frozen=True)
class SetTaking:
    """Let sticky and pinned clients go to the instances ``add`` and no longer to ``remove``.

    Belongs into one transaction with the slots: either alone leaves clients on an instance that is out.
    """

    service: str
    add: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SetPins:
    """Pin sources of a service to instances, {network: instance}, and no longer ``remove``; they must not overlap."""

    service: str
    add: Mapping[str, str] = field(default_factory=dict)
    remove: Mapping[str, str] = field(default_factory=dict)


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
    | SetRemotes
    | SetLimits
    | SetListens
    | PointSlots
    | SetTaking
    | SetPins
    | Detour
    | DropInstance
    | DropService
    | DropAll
)
Transaction = tuple[Change, ...]


@dataclass(frozen=True)
class SideTables:
    """What goes with a service's slots where its rule has it: its other tables, who takes connections, and pins."""

    local: Table = ()
    overflow: Table = ()
    taking: frozenset[str] = frozenset()
    pins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PlaneState:
    """What a data plane has now.

    ``home`` is None where there is nothing of ours. A service or instance whose rules are not what was set (a hand
    edit) is listed in ``drift`` by name ("" for the fixed part) and its rule in the maps may be None. So is one that
    another version of this tool wrote otherwise, without being drift; ``stale`` has "" where the fixed part is so.
    """

    home: str | None = None
    stale: frozenset[str] = frozenset()
    services: Mapping[str, ServiceRule | None] = field(default_factory=dict)
    instances: Mapping[str, InstanceRule | None] = field(default_factory=dict)
    slots: Mapping[str, Table] = field(default_factory=dict)
    beside: Mapping[str, SideTables] = field(default_factory=dict)
    listens: Mapping[Listen, str] = field(default_factory=dict)
    ports: frozenset[tuple[int, int]] = frozenset()
    remotes: frozenset[int] = frozenset()
    limits: Mapping[int, str] = field(default_factory=dict)
    drift: frozenset[str] = frozenset()


def merge(found: Mapping[Listen, str]) -> dict[Listen, str]:
    """Join the two families of ":PORT" into one listen address where both lead to one service."""
    merged = dict(found)
    for listen, service in found.items():
        twin = Listen(listen.port, None, (6,))
        if listen.address is None and listen.families == (4,) and found.get(twin) == service:
            del merged[listen], merged[twin]
            merged[Listen(listen.port, None, (4, 6))] = service
    return merged


class DataPlane(Protocol):
    """A data plane. Every method raises PortfleetError (exit 3) when it is refused; then nothing was changed."""

    def observe(self) -> PlaneState:
        """Read back everything of ours."""

    def read_slots(self, service: str) -> Table:
        """Read one service's slots; empty where there are none. Cheap enough for every ejection."""

    def read_beside(self, rule: ServiceRule) -> SideTables:
        """Read what goes with a service's slots; as cheap as `read_slots`."""

    def read_sticky(self, rule: ServiceRule, source: bytes) -> str | None:
        """Return the instance that a sticky client is remembered with; ``source`` is its address cut to the prefix."""

    def recover(self) -> PlaneState:
        """Read back everything as `observe` does, with marks, ports and seeds read out of the rules themselves.

        For a lost journal: rules that somebody edited are taken at their word; affinities are not read.
        """

    def check(self, transaction: Transaction) -> None:
        """Ask whether ``transaction`` would be taken, changing nothing."""

    def run(self, transaction: Transaction) -> None:
        """Carry out ``transaction`` as one."""

    def text(self, transaction: Transaction) -> str:
        """Return ``transaction`` as the data plane's own language, for people and golden tests."""
