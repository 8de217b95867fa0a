"""What operations look at and act on, as one value: the machine's own parts in the watcher, fakes in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import ParamSpec, TypeVar

from portfleet.apply.applied import Applied
from portfleet.apply.observe import observe
from portfleet.apply.programs import Programs
from portfleet.apply.proof import faults_of
from portfleet.core.desired import Desired
from portfleet.core.errors import PortfleetError
from portfleet.core.observed import Observed
from portfleet.core.operations import Operation
from portfleet.core.paths import Paths
from portfleet.core.program import Program
from portfleet.dataplane.interface import DataPlane
from portfleet.operations.daemons import Daemons
from portfleet.store.clock import Clock
from portfleet.store.journal import JournalStore
from portfleet.store.locks import Locked
from portfleet.store.log import Log
from portfleet.supervise.supervisor import Supervisor
from portfleet.watch.ejector import Ejector

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class World:
    """The parts. ``plane`` is for other threads than the loop, which has its own; ``wake`` has the watcher look now,
    ``unsteady`` names the instances that have ended soon after each of their last starts.

    ``random`` jitters evictions, so that clients do not come back in step.
    """

    paths: Paths
    store: JournalStore
    applied: Applied
    plane: DataPlane
    supervisor: Supervisor
    daemons: Daemons
    ejector: Ejector
    log: Log
    wake: Callable[[], object]
    unsteady: Callable[[], Iterable[str]] = tuple
    clock: Clock = field(default_factory=Clock)
    random: Random = field(default_factory=Random)

    def programs(self, desired: Desired) -> Programs:
        """Return what starts and ends the processes of ``desired``; it blocks."""
        forget = self.plane.connections.forget_ended
        return Programs(desired, self.supervisor, self.paths, self.clock, forget=forget)

    def prove(self, programs: Iterable[Program]) -> dict[str, str]:
        """Return why programs could not be started, by name; it blocks."""
        return faults_of(programs, self.paths)

    def observe(self, desired: Desired, only: Collection[str] | None = None) -> Observed:
        """Look at everything that a plan needs, or at ``only`` these instances; it blocks."""
        return observe(desired, plane=self.plane, supervisor=self.supervisor, paths=self.paths, probe=False, only=only)

    async def in_thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Do ``work``, which blocks, in another thread."""
        return await asyncio.to_thread(work, *arguments, **named)

    def waits(self, operation: Operation, error: Locked) -> None:
        """Log once that an operation waits for a lock; ``error`` names the process that holds it."""
        about = {"operation": operation.number, "service": operation.service, "reason": error.message}
        self.log.once("waits-for-lock", about=str(operation.number), **about)

    def tries_again(self, operation: Operation, error: PortfleetError) -> None:
        """Log that what an operation needs does not answer, and is tried again."""
        about = {"operation": operation.number, "service": operation.service}
        self.log("tries-again", **about, reason=error.message.splitlines()[0])

    async def pause(self, seconds: float) -> None:
        """Let others work for a while."""
        await asyncio.sleep(seconds)
