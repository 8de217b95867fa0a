"""What moves in nftables: elements of maps and sets, derived from a `Route` and from what the kernel has. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from portfleet.core.changes import Route
from portfleet.core.slots import Table
from portfleet.dataplane.nft.sides import SideTables, Which, side_tables

#: Slot → (instance it points to now, instance it shall point to); None is nowhere.
Moves = Mapping[int, tuple[str | None, str | None]]


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


def _point(service: str, before: Table, after: Table, which: Which) -> Iterator[PointSlots]:
    pad = (None,) * max(len(before), len(after))
    pairs = zip((before + pad)[: len(pad)], (after + pad)[: len(pad)], strict=True)
    if moves := {slot: pair for slot, pair in enumerate(pairs) if pair[0] != pair[1]}:
        yield PointSlots(service, moves, which)
