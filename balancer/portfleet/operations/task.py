"""What an operation works with: its own record in the journal, the service as it shall be, and hands to change both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar, cast

from portfleet.apply.programs import Programs
from portfleet.core.derive import settle
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.errors import Exit
from portfleet.core.journal import Journal
from portfleet.core.operations import Operation, Work
from portfleet.core.records import ServiceRecord
from portfleet.daemons.control import ControlError, ask
from portfleet.linux import sockdiag
from portfleet.operations.world import World
from portfleet.store import faults
from portfleet.store.clock import now
from portfleet.store.locks import Locked
from portfleet.supervise import adopted

W = TypeVar("W", bound=Work)

#: How often progress is written to the journal, in seconds.
_PROGRESS = 0.5


class Cancelled(Exception):
    """An operator asked for the operation to be given up."""


class OperationFailed(Exception):
    """The operation cannot go on; the text says why. ``settled``: what was done stays, and the text says what holds."""

    def __init__(self, words: str, *, settled: bool = False, code: Exit = Exit.FAILED) -> None:
        super().__init__(words)
        self.settled, self.code = settled, code


class CannotUndo(Exception):
    """The operation cannot be undone any more, so it was finished; the text says what holds."""


@dataclass
class Task(Generic[W]):
    """One running operation. What may take long is a coroutine; nothing here blocks the watcher's loop for long.

    ``undoing``: it is being undone and cannot be cancelled any more; ``undone``: what came of that, as an exit code.
    """

    operation: Operation
    world: World
    undoing: bool = False
    undone: Exit = Exit.DONE
    _written: float = 0.0

    @property
    def work(self) -> W:
        """Return what was asked of the operation, and what it remembers."""
        return cast(W, self.operation.work)

    def desired(self) -> Desired:
        """Return what shall be now, by the config that was applied and the journal."""
        return self.world.applied.desired()

    def want(self) -> DesiredService:
        """Return the operation's service as it shall be now; raises OperationFailed where it is gone."""
        services = self.desired().services
        if self.operation.service not in services:
            raise OperationFailed(f"service {self.operation.service} is not in the config any more", settled=True)
        return services[self.operation.service]

    def instances(self, names: Collection[str]) -> list[DesiredInstance]:
        """Return those of the service's instances with a process that are called one of ``names``."""
        return [want for want in self.want().instances if want.name in names and want.program is not None]

    def serves(self, name: str) -> bool:
        """Return whether an instance is neither ejected nor new, by the watcher's word."""
        return self.world.ejector.serves(name)

    def change(self, change: Callable[[ServiceRecord], ServiceRecord]) -> None:
        """Change the service's record in the journal."""
        name, fleet = self.operation.service, self.world.applied.fleet()

        def apply(journal: Journal) -> Journal:
            return settle(fleet, journal.with_service(name, change(journal.services[name])))

        self.world.store.update(apply)
        faults.point(f"{self.operation.verb} {self.operation.phase}: changed")
        self.world.wake()

    def enter(self, phase: str, work: W | None = None, *, owned: Iterable[str] = ()) -> None:
        """Go on to ``phase``, from which the operation resumes with ``work`` remembered.

        ``owned`` are the instances that it starts and stops itself from now on.
        """
        work = work or self.work
        self._save(replace(self.operation, phase=phase, note="", work=work, done=0, total=0, owned=tuple(owned)))
        fields = {"number": self.operation.number, "verb": self.operation.verb, "service": self.operation.service}
        self.world.log("operation", **fields, phase=phase)
        faults.point(f"{self.operation.verb} {phase}")

    def remember(self, work: W) -> None:
        """Keep ``work``, for a watcher that resumes here."""
        self._save(replace(self.operation, work=work))

    def began(self, what: str) -> float:
        """Return when ``what`` began, in monotonic seconds: now, where nobody has asked before.

        Of what a watcher before this one began only the wall clock can tell, jumps and all.
        """
        known = self.work.began
        if what in known:
            since = datetime.fromisoformat(known[what])
            return time.monotonic() - max(0.0, (datetime.now(UTC) - since).total_seconds())
        self.remember(replace(self.work, began={**known, what: now()}))
        return time.monotonic()

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Show how far the present phase is; not while another process has the journal."""
        self.operation = replace(self.operation, done=done, total=total, note=note)
        if time.monotonic() - self._written > _PROGRESS:
            with suppress(Locked):
                self._save(self.operation)

    def note_begun(self) -> None:
        """Note that somebody advances it: who finds that noted later resumes it. Raises Cancelled."""
        self._save(self.operation)

    def begin_undo(self, reason: str) -> None:
        """From now on it is undone for ``reason``, and that cannot be cancelled."""
        self.undoing = True
        self._save(replace(self.operation, failed=reason, note="", done=0, total=0))
        faults.point(f"{self.operation.verb} undo")

    def _save(self, operation: Operation) -> None:
        def apply(journal: Journal) -> Journal:
            now = journal.operation(operation.number)
            if now is None or (now.cancelled and not self.undoing):
                raise Cancelled
            return journal.with_operation(replace(operation, cancelled=now.cancelled))

        self.operation = operation
        self.world.store.update(apply)
        self._written = time.monotonic()

    async def pause(self, seconds: float) -> None:
        """Let the watcher work for a while; raises Cancelled when the operation was cancelled."""
        await asyncio.sleep(seconds)
        self.check()

    def check(self) -> None:
        """Raise Cancelled when an operator has cancelled the operation."""
        journal = self.world.store.read()
        now = journal.operation(self.operation.number) if journal else None
        if now is None or (now.cancelled and not self.undoing):
            raise Cancelled

    def point(self, *, ready: Iterable[str] = ()) -> None:
        """Point the service's slots as they shall be now, in one transaction; ``ready`` were found to be so."""
        self.world.ejector.point(self.want(), ready=ready)

    async def start(self, names: Iterable[str]) -> dict[str, str]:
        """Start instances and wait for them; gives {name: why not} for those that did not become ready.

        One on another box is only waited for.
        """
        found, programs = tuple(names), self.programs()
        if not found:
            return {}
        seconds = self.want().service.start_timeout
        await asyncio.to_thread(programs.start, [name for name in found if name in programs.desired.programs])
        await self.through(programs.waiting(found, seconds), self.check)
        if programs.failed and self.undoing:
            self.undone = Exit.TIMEOUT
        return programs.failed

    def programs(self) -> Programs:
        """Return what starts and ends processes, as they are wanted now."""
        return Programs(self.desired(), self.world.supervisor, self.world.paths)

    async def through(self, waits: Iterator[float], between: Callable[[], object]) -> None:
        """Go through ``waits``, which Programs gives, in other threads; ``between`` is called at each of them."""
        while (seconds := await asyncio.to_thread(next, waits, None)) is not None:
            between()
            await asyncio.sleep(seconds)

    async def connections(self, instances: Iterable[DesiredInstance]) -> dict[str, int]:
        """Return how many established connections each instance has; one without a process has none.

        One of ours that does not answer counts as having one: it is never taken for empty.
        """
        return await asyncio.to_thread(self._connections, list(instances))

    def _connections(self, instances: list[DesiredInstance]) -> dict[str, int]:
        pids = running(self.world)
        by_port = sockdiag.established() if any(not want.ours for want in instances) else None
        found = {}
        for want in instances:
            if want.name not in pids:
                found[want.name] = 0
            elif want.ours:
                found[want.name] = _asked(want)
            else:
                found[want.name] = by_port[want.rule.port] if by_port is not None else 0
        return found

    async def waiting(self, instances: Iterable[DesiredInstance]) -> int:
        """Return how many connections wait in the accept queues and in SYN_RECV of instances' ports."""
        queued = await asyncio.to_thread(sockdiag.waiting)
        return sum(queued[want.rule.port] for want in instances)


def running(world: World) -> dict[str, int]:
    """Return {instance: pid} of every instance that has a process, supervisord's own and adopted ones."""
    alive = adopted.alive(world.paths.processes)
    return alive | {name: info.pid for name, info in world.supervisor.programs().items() if info.pid is not None}


def hangs(want: DesiredInstance) -> bool:
    """Return whether our daemon does not answer its control socket within two seconds."""
    try:
        ask(want.control, "status", seconds=2)
    except ControlError:
        return True
    return False


def _asked(want: DesiredInstance) -> int:
    try:
        return int(ask(want.control, "status", seconds=2)["connections"])
    except ControlError:
        return 1
