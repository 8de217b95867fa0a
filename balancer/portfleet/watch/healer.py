"""Puts the rules back: after a foreign `nft flush ruleset`, a deleted table, or a hand edit in ours (drift).

It works only under the table lock and only while the difference is still there. Drift is left alone while an operator's
verb holds an operation lock, for then the difference is that verb's own work; a lost table is put back at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from portfleet.core import steps as s
from portfleet.core.changes import Change, DataPlane, PlaneState, SideTables, Transaction
from portfleet.core.desired import Desired
from portfleet.core.observed import Observed, ObservedInstance, Out
from portfleet.core.paths import Paths
from portfleet.core.plan import make_plan
from portfleet.core.routing import turn
from portfleet.core.slots import Table
from portfleet.store import locks
from portfleet.store.log import Log
from portfleet.watch.ejector import Ejector
from portfleet.watch.roster import Roster

#: How many slots one transaction of a repair moves at most, and a few more.
_SLOTS_AT_ONCE = 16_384

_KernelStep = s.LoadRules | s.PointSlots | s.OpenListens


class Healer:
    """Compares the kernel's rules with what shall be and repairs, or reports, by the policy."""

    def __init__(self, *, plane: DataPlane, paths: Paths, roster: Roster, ejector: Ejector, log: Log) -> None:
        self._plane, self._paths, self._roster, self._ejector, self._log = plane, paths, roster, ejector, log
        self._reported: tuple[str, ...] = ()

    def heal(self) -> bool:
        """Look once and mend; True when there was something to mend."""
        began = time.monotonic()
        with locks.table(self._paths.table_lock):
            desired = self._roster.latest()
            if desired is None:
                return False
            state = self._plane.observe()
            lost = state.home is None
            if not lost and self._somebody_works(desired):
                return False
            steps = self._steps(desired, state)
            if not steps:
                self._ejector.tables.update(state.slots)
                self._reported = ()
                return False
            words = tuple(step.describe() for step in steps)
            if not lost and not self._roster.repair:
                if words != self._reported:
                    self._log("drift", policy="report", would="; ".join(words))
                self._reported = words
                return True
            tables = dict(state.slots)
            for transaction in self._transactions(steps, desired, state, tables):
                self._plane.run(transaction)
            self._ejector.tables.update(tables)
        took = f"{(time.monotonic() - began) * 1000:.1f}"
        self._log("healed", lost="table" if lost else "rules", did="; ".join(words), took_ms=took)
        return True

    def _transactions(
        self, steps: list[_KernelStep], desired: Desired, state: PlaneState, tables: dict[str, Table]
    ) -> Iterator[Transaction]:
        """Join the changes of the steps: each transaction has a price of its own, a very large one too.

        ``tables`` is brought up to what the services' slots will be.
        """
        joined: list[Change] = []
        slots = 0
        for step in steps:
            if isinstance(step, s.PointSlots):
                slots += step.moved
                joined += self._point(step, desired, state, tables)
            else:
                joined += step.changes
            if slots > _SLOTS_AT_ONCE:
                yield tuple(joined)
                joined, slots = [], 0
        if joined:
            yield tuple(joined)

    def _point(self, step: s.PointSlots, desired: Desired, state: PlaneState, tables: dict[str, Table]) -> Transaction:
        before = state.slots.get(step.service, ())
        # As it was: slots of somebody who is out go back to where they had been dealt, not to a new deal.
        basis = before if any(before) else self._ejector.tables.get(step.service, ())
        beside = state.beside.get(step.service, SideTables())
        turned = turn(desired.services[step.service], before, beside, out=step.out, basis=basis)
        tables[step.service] = turned.table
        return turned.changes

    def _steps(self, desired: Desired, state: PlaneState) -> list[_KernelStep]:
        observed = Observed(plane=state, instances=self._as_if_ready(desired))
        left_out = [self._ejector.without(want, state.slots.get(want.name, ())) for want in desired.services.values()]
        out = frozenset(self._ejector.out).union(*left_out)
        plan = make_plan(desired, replace(observed, out=dict.fromkeys(out, Out("probe", "", "left out"))))
        return [replace(step, out=out) if isinstance(step, s.PointSlots) else step for step in plan.steps
                if isinstance(step, _KernelStep)]  # fmt: skip

    def _as_if_ready(self, desired: Desired) -> dict[str, ObservedInstance]:
        """Rules alone are compared here: who serves is the ejector's word."""
        return {want.name: ObservedInstance("RUNNING", ready=True) for want in desired.instances()}

    def _somebody_works(self, desired: Desired) -> bool:
        return any(locks.holder_of(self._paths.operation_lock(name)) for name in desired.configured)
