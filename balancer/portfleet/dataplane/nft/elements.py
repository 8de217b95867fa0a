"""What moves in nftables: elements of maps and sets, derived from a `Route` and from what the kernel has. Pure.

A service's slots lead to instances by number. Beside them stand tables that its rules look into: of local instances
for clients of this box (only if the service has remote ones), that of the order in which instances are tried when one
is full (only with a limit), the set of instances that take connections and the pins (only if clients may be sticky or
pinned). Slots alone would leave such clients on an instance that is out, so all of them move in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from portfleet.core.changes import Route
from portfleet.core.model import parse_instance
from portfleet.core.slots import Table

#: Slot → (instance it points to now, instance it shall point to); None is nowhere.
Moves = Mapping[int, tuple[str | None, str | None]]
Which = Literal["slots", "local", "overflow"]
#: Entries of the table of local instances.
LOCAL_SLOTS = 64


@dataclass(frozen=True)
class SetBase:
    """The chains of the fixed part, for the fleet whose identity is ``home``."""

    home: str


@dataclass(frozen=True)
class PointSlots:
    """Point entries of one of a service's tables at instances."""

    service: str
    moves: Moves
    which: Which = "slots"


@dataclass(frozen=True)
class SetTaking:
    """Let sticky and pinned clients go to the instances ``add`` and no longer to ``remove``."""

    service: str
    add: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SetPins:
    """Pin sources of a service to instances, {network: instance}, and no longer ``remove``."""

    service: str
    add: Mapping[str, str] = field(default_factory=dict)
    remove: Mapping[str, str] = field(default_factory=dict)


ElementChange = PointSlots | SetTaking | SetPins


@dataclass(frozen=True)
class SideTables:
    """What stands beside a service's slots if its rule has it."""

    local: Table = ()
    overflow: Table = ()
    taking: frozenset[str] = frozenset()
    pins: Mapping[str, str] = field(default_factory=dict)


def side_tables(change: Route, now: SideTables) -> SideTables:
    """Return what is to stand beside the slots of ``change`` when ``now`` stands there."""
    rule = change.rule
    names = list(dict.fromkeys(name for name in change.table if name))
    local = [name for name in names if is_local(name)]
    order = now.overflow if change.overflow is None else change.overflow
    tried = dict.fromkeys(name for name in (*order, *local) if name in local)
    return SideTables(
        local=local_table(change.table, local) if rule.remote else (),
        overflow=_filled(list(tried), rule.tries),
        taking=frozenset(names if rule.sticky or rule.pins else ()),
        pins=change.pins if rule.pins else {},
    )


def element_changes(change: Route, slots: Table, now: SideTables) -> Iterator[ElementChange]:
    """Return what leads from ``slots`` and ``now``, which the kernel has, to ``change``."""
    rule, new = change.rule, side_tables(change, now)
    yield from _point(rule.name, slots, change.table, "slots")
    if now.taking != new.taking:
        yield SetTaking(rule.name, add=new.taking - now.taking, remove=now.taking - new.taking)
    yield from _point(rule.name, now.local, new.local, "local")
    yield from _point(rule.name, now.overflow, new.overflow, "overflow")
    if now.pins != new.pins:
        add = {network: name for network, name in new.pins.items() if now.pins.get(network) != name}
        remove = {network: name for network, name in now.pins.items() if new.pins.get(network) != name}
        yield SetPins(rule.name, add, remove)


def local_table(slots: Table, local: Collection[str]) -> Table:
    """Return a table in which every entry has the first local instance at or after its place among the slots.

    Places step by the golden section: every 64th slot is often one instance's, for slots are dealt by turns.
    """
    if not any(name in local for name in slots if name):
        return ()
    found: list[str | None] = []
    for entry in range(LOCAL_SLOTS):
        at = (entry * 0x9E3779B1 % (1 << 32)) * len(slots) >> 32
        found.append(next(name for name in slots[at:] + slots[:at] if name in local))
    return tuple(found)


def is_local(name: str) -> bool:
    """Return whether ``name`` is an instance on this box."""
    instance = parse_instance(name)
    return instance is not None and instance.colour is not None


def _point(service: str, before: Table, after: Table, which: Which) -> Iterator[PointSlots]:
    pad = (None,) * max(len(before), len(after))
    pairs = zip((before + pad)[: len(pad)], (after + pad)[: len(pad)], strict=True)
    if moves := {slot: pair for slot, pair in enumerate(pairs) if pair[0] != pair[1]}:
        yield PointSlots(service, moves, which)


def _filled(order: list[str], length: int) -> Table:
    return tuple(order[:length]) + (None,) * (length - len(order))
