"""Which module advances which operation: one entry per dataclass of ``core.work``."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from portfleet.core.operations import Work
from portfleet.core.work.cutover import Cutover, Rollback
from portfleet.core.work.drain import Drain, Maint
from portfleet.core.work.migrate import Migrate
from portfleet.core.work.migrate_live import MigrateLive
from portfleet.core.work.rebalance import Rebalance
from portfleet.core.work.restart import Restart
from portfleet.core.work.scale import Scale
from portfleet.core.work.undrain import Undrain
from portfleet.operations import cutover, drain, migrate, migrate_live, rebalance, restart, scale, undrain
from portfleet.operations.task import Task


class Verb(Protocol):
    """How an operation is done, and how it is undone; both return in words what holds then."""

    def run(self, task: Task[Any], /) -> Coroutine[Any, Any, str]:
        """Advance the operation from its present phase on. Raises Cancelled, OperationFailed, PortfleetError."""

    def undo(self, task: Task[Any], /) -> Coroutine[Any, Any, str]:
        """Undo what was done, from whatever phase. Raises CannotUndo, OperationFailed, PortfleetError."""


VERBS: Mapping[type[Work], Verb] = {
    Drain: drain,
    Maint: drain,
    Undrain: undrain,
    Migrate: migrate,
    Cutover: cutover,
    Rollback: cutover,
    Restart: restart,
    Rebalance: rebalance,
    Scale: scale,
    MigrateLive: migrate_live,
}
