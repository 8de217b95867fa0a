"""Takes instances out of the kernel's slots and back in: the only part of the watcher that moves clients.

An ejection takes hold in two steps. First a detour: the dead instance's chain leads to a sibling, two rules instead of
a thousand slots (0.1 ms). Then its slots are dealt evenly to the others, the chain is set right again, and conntrack
entries that saw no reply are deleted, so that clients whose SYN met the dead instance are translated afresh.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from portfleet import locks, outset
from portfleet.clock import now
from portfleet.desired import Desired, InstanceWant, ServiceWant
from portfleet.kernel.changes import Change, Detour, Kernel, PointSlots, SetInstance
from portfleet.outset import Out
from portfleet.paths import Paths
from portfleet.plan import slot_moves
from portfleet.slots import Table


class Ejector:
    """Points slots by who is out. ``pending`` are wanted instances that have not been ready yet."""

    def __init__(self, *, kernel: Kernel, paths: Paths, forget_half_open: Callable[[int], None]) -> None:
        self._kernel, self._paths, self._forget_half_open = kernel, paths, forget_half_open
        self.out = outset.read(paths.out)
        self.pending: set[str] = set()
        #: The last table of each service that was seen or set, to put it back as it was after a foreign flush.
        self.tables: dict[str, Table] = {}

    def eject(self, want: ServiceWant, instance: InstanceWant, *, kind: str, reason: str) -> float:
        """Take ``instance`` out; gives the seconds until new connections went elsewhere."""
        began = time.monotonic()
        with locks.table(self._paths.table_lock):
            self.out[instance.name] = Out("died" if kind == "died" else "probe", now(), reason)
            sibling = self._sibling(want, instance.name)
            if sibling is not None:
                self._kernel.run((Detour(instance.name, sibling),))
            took = time.monotonic() - began
            outset.write(self._paths.out, self.out)
            self._point(want, extra=(SetInstance(instance.rule),) if sibling else ())
        self._forget_half_open(instance.rule.mark)
        return took

    def admit(self, want: ServiceWant, instance: InstanceWant) -> int:
        """Let ``instance`` take connections again; gives how many slots it has now."""
        with locks.table(self._paths.table_lock):
            self.pending.discard(instance.name)
            if self.out.pop(instance.name, None) is not None:
                outset.write(self._paths.out, self.out)
            self._point(want)
        return self.tables[want.name].count(instance.name)

    def settle(self, desired: Desired) -> None:
        """Forget what is out but not wanted any more."""
        wanted = {want.name for want in desired.instances() if want.takes}
        if gone := self.out.keys() - wanted:
            for name in gone:
                del self.out[name]
            outset.write(self._paths.out, self.out)
        self.pending &= wanted
        self.tables = {name: table for name, table in self.tables.items() if name in desired.services}

    def without(self, want: ServiceWant, current: Table) -> frozenset[str]:
        """Give who is left out of a service: the ejected, and the pending that nobody pointed slots at yet."""
        new = {name for name in self.pending if name not in current}
        return frozenset(i.name for i in want.instances if i.name in self.out or i.name in new)

    def _point(self, want: ServiceWant, *, extra: Iterable[Change] = ()) -> None:
        current = self._kernel.read_slots(want.name)
        table = want.table(current, out=self.without(want, current))
        moves = slot_moves(current, table)
        changes = [*extra, *([PointSlots(want.name, moves)] if moves else [])]
        if changes:
            self._kernel.run(tuple(changes))
        self.tables[want.name] = table

    def _sibling(self, want: ServiceWant, name: str) -> str | None:
        """Give an instance that serves beside ``name``."""
        table = self.tables.get(want.name, ())
        serving = [i.name for i in want.instances if i.takes and i.name != name and i.name not in self.out]
        return next((sibling for sibling in serving if sibling in table), None)
