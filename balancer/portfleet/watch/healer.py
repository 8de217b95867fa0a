"""Puts the rules back: after another program's flush, a deleted table, or a hand edit in ours (drift).

It works only under the table lock and only while the difference is still there. Drift is left alone while slots are
dealt, or an operator's verb holds an operation lock: the difference is their work. A lost table is put back at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from portfleet.core import steps as s
from portfleet.core.changes import Change, PlaneState, Transaction
from portfleet.core.desired import Desired
from portfleet.core.durations import Durations
from portfleet.core.observed import Observed, ObservedInstance, Out
from portfleet.core.paths import Paths
from portfleet.core.plan import make_plan
from portfleet.core.routing import route
from portfleet.core.slots import Table
from portfleet.core.states import Presence
from portfleet.dataplane.interface import DataPlane
from portfleet.store import locks
from portfleet.store.log import Log
from portfleet.watch.ejector import DEALT, Ejector
from portfleet.watch.roster import Roster

#: Seconds until rules that were well are read again, even if their version is the same.
_LONGEST = 150.0
_PlaneStep = s.LoadRules | s.PointSlots | s.OpenListens


class Healer:
    """Compares the kernel's rules with what shall be and repairs, or reports, by the policy."""

    def __init__(self, *, plane: DataPlane, paths: Paths, roster: Roster, ejector: Ejector, log: Log) -> None:
        self._plane, self._paths, self._roster, self._ejector, self._log = plane, paths, roster, ejector, log
        #: Until when operations that an earlier watcher began may not have resumed yet.
        self._resumed_by = time.monotonic() + DEALT
        self._reported: tuple[str, ...] = ()
        #: What was to be and what there was when all was well at the last look, and until when that is not read again.
        self._well: tuple[object, ...] = ()
        self._until = 0.0
        #: How often what was lost was put back: the whole table, or rules of it; and how long each time took.
        self.healed = {"table": 0, "rules": 0}
        self.took = Durations()

    @property
    def waits(self) -> bool:
        """Return whether a look would find slots that are just being dealt, maybe by a watcher before this one."""
        return self._ejector.deals or (time.monotonic() < self._resumed_by and self._resumes)

    @property
    def _resumes(self) -> bool:
        desired = self._roster.desired
        return desired is not None and any(operation.begun for operation in desired.journal.operations)

    @property
    def drift(self) -> bool:
        """Whether the rules are not as they shall be, and are left so by the policy."""
        return bool(self._reported)

    def heal(self) -> bool:
        """Look once and repair; return whether there was something to repair.

        Raise Locked while another process holds the table lock, PortfleetError if a repair is refused.
        """
        began = time.monotonic()
        with locks.table(self._paths.table_lock, seconds=0):
            desired = self._roster.latest()
            if desired is None:
                return False
            version, now = self._plane.version(), time.monotonic()
            seen = (version, desired, frozenset(self._ejector.out), frozenset(self._ejector.pending))
            if version is not None and seen == self._well and now < self._until:
                return False
            state = self._plane.observe()
            lost = state.home is None
            if not lost and (self.waits or self._somebody_works(desired)):
                self._ejector.tables.update({name: table for name, table in state.slots.items() if any(table)})
                return False
            steps = self._steps(desired, state)
            if not steps:
                self._ejector.tables.update(state.slots)
                self._reported, self._well, self._until = (), seen, now + _LONGEST
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
        took, what = time.monotonic() - began, "table" if lost else "rules"
        self.healed[what] += 1
        self.took.add(took)
        self._reported = ()
        self._log("healed", lost=what, did="; ".join(words), took_ms=f"{took * 1000:.1f}")
        return True

    def _transactions(
        self, steps: list[_PlaneStep], desired: Desired, state: PlaneState, tables: dict[str, Table]
    ) -> Iterator[Transaction]:
        """Join the changes of the steps: each transaction has a price of its own, a very large one too.

        ``tables`` is brought up to what the services' slots will be.
        """
        joined: list[Change] = []
        slots = 0
        for step in steps:
            if isinstance(step, s.PointSlots):
                slots += step.moved
                joined.append(self._route(step, desired, state, tables))
            else:
                joined += step.changes
            if slots > self._plane.traits.slots_at_once:
                yield tuple(joined)
                joined, slots = [], 0
        if joined:
            yield tuple(joined)

    def _route(self, step: s.PointSlots, desired: Desired, state: PlaneState, tables: dict[str, Table]) -> Change:
        before = state.slots.get(step.service, ())
        # As it was: slots of an instance that is out go back to where they had been dealt, not to a new deal.
        basis = before if any(before) else self._ejector.tables.get(step.service, ())
        change = route(desired.services[step.service], before, out=step.out, basis=basis)
        tables[step.service] = change.table
        return change

    def _steps(self, desired: Desired, state: PlaneState) -> list[_PlaneStep]:
        observed = Observed(
            plane=state, supervisord=Presence.ABSENT, instances=self._as_if_ready(desired), at=time.time()
        )
        left_out = [self._ejector.without(want, state.slots.get(want.name, ())) for want in desired.services.values()]
        out = frozenset(self._ejector.out).union(*left_out)
        seen = replace(observed, out=dict.fromkeys(out, Out("probe", "", "left out")))
        plan = make_plan(desired, seen, services_at_once=self._plane.traits.services_at_once)
        return [replace(step, out=out) if isinstance(step, s.PointSlots) else step for step in plan.steps
                if isinstance(step, _PlaneStep)]  # fmt: skip

    def _as_if_ready(self, desired: Desired) -> dict[str, ObservedInstance]:
        """Rules alone are compared here: who serves is the ejector's word."""
        return {want.name: ObservedInstance("RUNNING", ready=True) for want in desired.instances()}

    def _somebody_works(self, desired: Desired) -> bool:
        return any(locks.holder_of(self._paths.operation_lock(name)) for name in desired.configured)
