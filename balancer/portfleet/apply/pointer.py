"""Points slots: the one way for the plan's steps, ejections, admissions, operations and pins.

What is read, what follows from it and the transaction are under one hold of the table lock: no other process moves
slots in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from pathlib import Path

from portfleet.core.changes import Change, Route
from portfleet.core.desired import DesiredService
from portfleet.core.routing import moved, route
from portfleet.core.slots import Table, in_turn
from portfleet.dataplane.interface import DataPlane
from portfleet.store import locks


class Pointer:
    """Points the slots of services on ``plane``; ``lock`` is the table lock's file.

    ``patience``: seconds to wait for it, 0 in the watcher's loop, which comes back later instead.
    """

    def __init__(self, plane: DataPlane, lock: Path, *, patience: float = 10.0) -> None:
        self.plane, self._lock, self._patience = plane, lock, patience

    def hold(self) -> AbstractContextManager[object]:
        """Hold the table lock; raise Locked if another process has it for longer than is to be waited for."""
        return locks.table(self._lock, seconds=self._patience)

    def point(
        self,
        service: DesiredService,
        *,
        out: Callable[[Table], frozenset[str]],
        probed_out: bool = False,
        before: Iterable[Change] = (),
        most: int | None = None,
    ) -> tuple[Route, int]:
        """Point a service's slots at the instances that serve, while the table lock is held.

        ``out`` returns the instances that do not serve, given the present slots; ``probed_out`` as in `route`;
        ``before``: changes that belong into the same transaction. Return what was set, and how many slots are left to
        be pointed: with ``most``, no more than so many are, and what is ``before`` comes with the last. Raise
        PortfleetError if it is refused.
        """
        slots = self.plane.read_slots(service.name)
        change = route(service, slots, out=out(slots), probed_out=probed_out)
        count = moved(slots, change.table)
        if most is not None and count > most and len(slots) == len(change.table):
            part = replace(change, table=_partly(slots, change.table, most))
            self.plane.run((part,))
            return part, count - most
        changes = [*before]
        if count or not change.rule.plain:
            changes.append(change)
        if changes:
            self.plane.run(tuple(changes))
        return change, 0


def _partly(before: Table, after: Table, most: int) -> Table:
    """Return ``before`` with ``most`` of the slots that differ as in ``after``: some of every instance."""
    table = list(before)
    for slot in islice((slot for slot in in_turn(len(after)) if before[slot] != after[slot]), most):
        table[slot] = after[slot]
    return tuple(table)
