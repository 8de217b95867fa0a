"""Which module advances which operation: one entry per dataclass of ``core.operations``."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from portfleet.core.operations import (
    Cutover,
    Drain,
    Maint,
    Migrate,
    Rebalance,
    Restart,
    Rollback,
    Scale,
    Undrain,
    Work,
)
from portfleet.operations import cutover, drain, migrate, rebalance, restart, scale, undrain
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
}
