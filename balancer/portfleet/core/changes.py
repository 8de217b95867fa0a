"""What can be asked of a data plane, as values: a transaction is a tuple of changes, done wholly or not at all.

The nouns are those of the design: fleet, service, instance, listen address, slot. What a data plane needs beside them
(numbers of connections, maps, weights) it derives itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from portfleet.core.access import Access
from portfleet.core.model import Affinity, Listen
from portfleet.core.slots import Table
from portfleet.core.value import value


@value
class Sticky:
    """Remember a client's instance for ``seconds`` after its last connect; ``size`` is how many clients at most."""

    seconds: int
    size: int


@value
class InstanceRule:
    """How a new connection gets to an instance. ``remote`` None: to ``port`` on this box.

    ``number`` is its own for as long as the fleet exists, and no other instance's. ``limit``: connections at most, 0
    for no limit; what is over it goes to the next instance of `Route.overflow` or, without ``spills``, is refused.
    ``key`` says what a sticky client is known by. ``snat``: the source address that a remote instance sees; None: the
    one that this box has towards it, "": the client's.
    """

    name: str
    number: int
    port: int
    remote: Listen | None = None
    sticky: Sticky | None = None
    key: Affinity | None = None
    limit: int = 0
    spills: bool = True
    snat: str | None = None

    @property
    def overflows(self) -> bool:
        """Return whether what is over its limit goes to others, and what is over theirs to it."""
        return self.limit > 0 and self.spills


@value
class ServiceRule:
    """How a new connection of a service gets to a slot.

    ``pins``: some sources have an instance of their own; ``remote``: clients of this box need a table without remote
    instances; ``tries``: how many instances are tried in turn when one is full, 0 without a limit; ``empty``: what a
    client of a slot that points nowhere gets (keep: what this box says itself); ``limited``: its instances have limits;
    ``filters``: it has an `Access`, which ``allows`` says names who may connect; ``per_source``: connections that one
    source, as the affinity has it, may have at a time, 0 for any number; ``proxy``: instances are told who their client
    is by a PROXY protocol header.
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
    filters: bool = False
    allows: bool = False
    per_source: int = 0
    proxy: bool = False

    @property
    def plain(self) -> bool:
        """Return whether slots alone decide where a new connection goes."""
        return not (self.pins or self.sticky or self.remote or self.tries)


@value
class SetFleet:
    """Set the fixed part for the fleet with the identity ``home``; guard instances' ``ports`` (inclusive ranges)."""

    home: str
    ports: frozenset[tuple[int, int]] = frozenset()


@value
class SetService:
    """Set a service's rules; its slots stay as they are."""

    rule: ServiceRule


@value
class SetInstance:
    """Set an instance's rules, which ends a `Divert` of it; established connections are not touched."""

    rule: InstanceRule


@value
class SetAccess:
    """Set who may connect to a service whose rule ``filters``; established connections stay.

    A denial that ends does so by itself, at its time.
    """

    service: str
    access: Access


@value
class SetListens:
    """Let clients in by ``add`` and no longer by ``remove``; each maps a listen address to its service."""

    add: Mapping[Listen, str] = field(default_factory=dict)
    remove: Mapping[Listen, str] = field(default_factory=dict)


@value
class Route:
    """Point the slots of the service with ``rule`` by ``table``, an instance or None for each slot.

    All that goes with the slots follows: sticky clients go only to instances in the table, clients of this box only to
    local ones, ``pins`` {network: instance} apply (networks do not overlap; a pin to an instance outside the table is
    kept and has no effect), and what is too much for an instance goes to those of ``overflow`` in that order (None:
    the present order, new instances last).
    """

    rule: ServiceRule
    table: Table
    pins: Mapping[str, str] = field(default_factory=dict)
    overflow: tuple[str, ...] | None = None


@value
class Divert:
    """Send new connections of the instance ``name`` to the instance ``to``, until `SetInstance` sets it right again.

    One small change instead of thousands of slots: an ejection takes hold within a millisecond, before slots move.
    """

    name: str
    to: str


@value
class DropInstance:
    """Forget an instance to which nothing points any more."""

    name: str


@value
class DropService:
    """Forget a service, with its slots, that no listen address leads to any more."""

    name: str


@value
class DropAll:
    """Remove everything of ours and nothing else."""


Change = (
    SetFleet | SetService | SetInstance | SetAccess | SetListens | Route | Divert | DropInstance | DropService | DropAll
)
Transaction = tuple[Change, ...]


@value
class PlaneState:
    """What a data plane has now.

    ``fleet`` is None if there is nothing of ours. A service or instance whose rules are not what was set (a hand edit)
    is listed in ``drift`` by name ("" for the fixed part) and its rule may be None. So is one that another version of
    this tool wrote otherwise, without being drift; ``stale`` has "" if that is the fixed part. ``unsettled`` are
    services for which what goes with the slots is not what their slots ask for; ``pins`` are {service: {network:
    instance}}; ``access`` is there for services that have any.
    """

    fleet: SetFleet | None = None
    stale: frozenset[str] = frozenset()
    services: Mapping[str, ServiceRule | None] = field(default_factory=dict)
    instances: Mapping[str, InstanceRule | None] = field(default_factory=dict)
    slots: Mapping[str, Table] = field(default_factory=dict)
    pins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unsettled: frozenset[str] = frozenset()
    access: Mapping[str, Access] = field(default_factory=dict)
    listens: Mapping[Listen, str] = field(default_factory=dict)
    drift: frozenset[str] = frozenset()

    @property
    def home(self) -> str | None:
        """The identity of the fleet that the data plane serves; None if it serves none."""
        return self.fleet.home if self.fleet else None


def join_families(found: Mapping[Listen, str]) -> dict[Listen, str]:
    """Return ``found`` with the two families of ":PORT" as one listen address if both lead to one service."""
    joined = dict(found)
    for listen, service in found.items():
        twin = Listen(listen.port, None, (6,))
        if listen.address is None and listen.families == (4,) and found.get(twin) == service:
            del joined[listen], joined[twin]
            joined[Listen(listen.port, None, (4, 6))] = service
    return joined
