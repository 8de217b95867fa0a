"""A kernel that knows which changes of the rules were its own, and does not read again what nobody changed.

Every transaction on the rules of a network namespace raises its generation id by one. When the id after a change of
ours is the one before plus one, the change is ours alone; while the id stays, so does what was read at it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from portfleet.core.changes import DataPlane, Moves, PlaneState, PointSlots, ServiceRule, SideTables, Transaction
from portfleet.core.slots import Table


class CachedPlane:
    """``kernel`` (see ``Kernel``) with a memory; ``generation`` gives the present generation id."""

    def __init__(self, plane: DataPlane, generation: Callable[[], int]) -> None:
        self._plane, self._generation = plane, generation
        self._known = -1
        self._slots: dict[str, Table] = {}
        self._own: deque[int] = deque(maxlen=1024)

    def is_own(self, generation: int) -> bool:
        """Return whether that transaction was one of ours."""
        return generation in self._own

    def observe(self) -> PlaneState:
        now = self._generation()
        state = self._plane.observe()
        if now == self._generation():
            self._known, self._slots = now, dict(state.slots)
        return state

    def read_slots(self, service: str) -> Table:
        now = self._generation()
        if now != self._known:
            self._known, self._slots = now, {}
        if service not in self._slots:
            self._slots[service] = self._plane.read_slots(service)
        return self._slots[service]

    def read_beside(self, rule: ServiceRule) -> SideTables:
        return self._plane.read_beside(rule)

    def read_sticky(self, rule: ServiceRule, source: bytes) -> str | None:
        return self._plane.read_sticky(rule, source)

    def recover(self) -> PlaneState:
        return self._plane.recover()

    def check(self, transaction: Transaction) -> None:
        self._plane.check(transaction)

    def run(self, transaction: Transaction) -> None:
        before = self._generation()
        self._plane.run(transaction)
        after = self._generation()
        if after != before + 1:
            return  # somebody changed something between: the next read reads anew
        self._own.append(after)
        if before == self._known:
            self._known = after
            for change in transaction:
                if isinstance(change, PointSlots) and change.which == "slots":
                    self._follow(change.service, change.moves)

    def text(self, transaction: Transaction) -> str:
        return self._plane.text(transaction)

    def _follow(self, service: str, moves: Moves) -> None:
        table = self._slots.get(service)
        if table is None:
            return
        slots = list(table) + [None] * (max(moves, default=-1) + 1 - len(table))
        for slot, (_, new) in moves.items():
            slots[slot] = new
        self._slots[service] = tuple(slots)
