"""Where a service's new connections go, as one transaction: slots and all that goes with them. Pure.

Everybody who moves slots does it by `turn`: slots alone would leave sticky and pinned clients on an instance that is
out, clients of this box on a remote one, and a full instance's clients without another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from portfleet.core import changes as c
from portfleet.core.desired import DesiredService
from portfleet.core.slots import Table, moves


@dataclass(frozen=True)
class Turn:
    """What is to be changed so that ``table`` and ``beside`` are what the kernel has; ``moved`` slots differ."""

    table: Table
    beside: c.SideTables
    moved: int
    changes: c.Transaction


def turn(
    want: DesiredService,
    slots: Table,
    beside: c.SideTables,
    *,
    out: frozenset[str] = frozenset(),
    basis: Table = (),
    probed_out: bool = False,
) -> Turn:
    """Return what points ``slots`` and ``beside`` (as the kernel has them) at who serves while ``out`` does not.

    ``basis``: the table to deal from where the kernel has lost its own. ``probed_out``: those who are out failed their
    probes, so that a service without anybody left does what its ``when_empty`` says; else the last state is kept.
    """
    after = want.table(basis or slots, out=out)
    serving = {instance.name for instance in want.instances if instance.takes} - out
    if probed_out and not serving and want.rule.empty != "keep":
        after = (None,) * len(slots)
    moved = slot_moves(slots, after)
    changes: list[c.Change] = [c.PointSlots(want.name, moved)] if moved else []
    new = _beside(want, after, beside)
    return Turn(after, new, len(moved), (*changes, *_difference(want, beside, new)))


def slot_moves(before: Table, after: Table) -> c.Moves:
    """Return the moves between two tables, which may differ in length (the missing part points nowhere)."""
    length = max(len(before), len(after))
    pad = (None,) * length
    return moves((before + pad)[:length], (after + pad)[:length])


def reorder(want: DesiredService, beside: c.SideTables, connections: Mapping[str, int]) -> c.Transaction:
    """Have the overflow of full instances go to the least loaded first; empty where it does already."""
    order = sorted((name for name in beside.overflow if name), key=lambda name: connections.get(name, 0))
    return _point(want.name, beside.overflow, _filled(order, want.rule.tries), "overflow")


def _beside(want: DesiredService, slots: Table, now: c.SideTables) -> c.SideTables:
    """Return what shall go with ``slots``; the order of who is tried for a full instance is kept."""
    rule = want.rule
    names = list(dict.fromkeys(name for name in slots if name))
    local = [i.name for i in want.instances if i.rule.remote is None and i.name in names]
    tried = [name for name in now.overflow if name in local]
    return c.SideTables(
        local=_local(slots, set(local)) if rule.remote else (),
        overflow=_filled(list(dict.fromkeys(name for name in (*tried, *local) if name)), rule.tries),
        taking=frozenset(names if rule.marked else ()),
        pins=want.pins if rule.pins else {},
    )


def _difference(want: DesiredService, now: c.SideTables, new: c.SideTables) -> list[c.Change]:
    """Return the changes from ``now`` to ``new`` of what the rule has; the rest went, or goes, with the rule."""
    changes: list[c.Change] = []
    if want.rule.marked and now.taking != new.taking:
        changes.append(c.SetTaking(want.name, add=new.taking - now.taking, remove=now.taking - new.taking))
    if want.rule.remote:
        changes += _point(want.name, now.local, new.local, "local")
    if want.rule.tries:
        changes += _point(want.name, now.overflow, new.overflow, "overflow")
    if want.rule.pins and now.pins != new.pins:
        add = {network: name for network, name in new.pins.items() if now.pins.get(network) != name}
        remove = {network: name for network, name in now.pins.items() if new.pins.get(network) != name}
        changes.append(c.SetPins(want.name, add, remove))
    return changes


def _point(service: str, before: Table, after: Table, which: c.Which) -> tuple[c.Change, ...]:
    moved = slot_moves(before, after)
    return (c.PointSlots(service, moved, which),) if moved else ()


def _filled(order: list[str], length: int) -> Table:
    return tuple(order[:length]) + (None,) * (length - len(order))


def _local(slots: Table, local: set[str]) -> Table:
    """Return every entry the first local instance at or after its place among the slots.

    Places step by the golden section: every 64th slot is often one instance's, for slots are dealt by turns.
    """
    if not any(name in local for name in slots if name):
        return ()
    found: list[str | None] = []
    for entry in range(c.LOCAL_SLOTS):
        at = (entry * 0x9E3779B1 % (1 << 32)) * len(slots) >> 32
        found.append(next(name for name in slots[at:] + slots[:at] if name in local))
    return tuple(found)
