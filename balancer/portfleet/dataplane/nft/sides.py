"""What stands beside a service's slots in nftables, derived from a `Route`. Pure.

A service's slots lead to instances by number. Beside them stand tables that its rules look into: of local instances
for clients of this box (only if the service has remote ones), that of the order in which instances are tried when one
is full (only with a limit), the set of instances that take connections and the pins (only if clients may be sticky or
pinned). Slots alone would leave such clients on an instance that is out, so all of them move in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field
from typing import Literal

from portfleet.core.changes import Route
from portfleet.core.model import parse_instance
from portfleet.core.slots import Table
from portfleet.core.value import value

#: A service's tables.
Which = Literal["slots", "local", "overflow"]
#: Entries of the table of local instances.
LOCAL_SLOTS = 64


@value
class SideTables:
    """What stands beside a service's slots if its rule has it; ``tried``: instances that have a chain for overflow."""

    local: Table = ()
    overflow: Table = ()
    tried: frozenset[str] = frozenset()
    taking: frozenset[str] = frozenset()
    pins: Mapping[str, str] = field(default_factory=dict)


def side_tables(change: Route, now: SideTables) -> SideTables:
    """Return what is to stand beside the slots of ``change`` when ``now`` stands there."""
    rule = change.rule
    names = [name for name in dict.fromkeys(change.table) if name]
    local = [name for name in names if is_local(name)]
    order = now.overflow if change.overflow is None else change.overflow
    # One that has had no limit until now gets its chain when it is started with one.
    tried = dict.fromkeys(name for name in (*order, *local) if name in local and name in now.tried)
    return SideTables(
        local=local_table(change.table, local) if rule.remote else (),
        overflow=_filled(list(tried), rule.tries),
        tried=now.tried,
        taking=frozenset(names if rule.sticky or rule.pins else ()),
        pins=change.pins if rule.pins else {},
    )


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


def _filled(order: list[str], length: int) -> Table:
    return tuple(order[:length]) + (None,) * (length - len(order))
