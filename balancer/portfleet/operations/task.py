"""What an operation works with: its own record in the journal, the service as it shall be, and hands to change both."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from portfleet.apply.context import Context
from portfleet.apply.execute import Executor
from portfleet.core.derive import make_desired
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.errors import Exit
from portfleet.core.journal import Journal, Operation, ServiceRecord
from portfleet.core.paths import Paths
from portfleet.daemons import instances
from portfleet.daemons.capability import cannot_hand_off
from portfleet.daemons.control import Heard
from portfleet.daemons.instances import connections, hear
from portfleet.linux import sockdiag
from portfleet.store import atomic, faults
from portfleet.store import journal as journal_file
from portfleet.store.clock import now
from portfleet.store.log import Log
from portfleet.watch.ejector import Ejector

#: How often progress is written to the journal, and how often a cancellation is looked for, in seconds.
_PROGRESS, _LOOK = 0.5, 0.1


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
class Task:
    """One running operation. What may take long is a coroutine; nothing here blocks the watcher's loop for long.

    ``undoing``: it is being undone and cannot be cancelled any more; ``undone``: what came of that, as an exit code.
    """

    operation: Operation
    paths: Paths
    ejector: Ejector
    log: Log
    wake: Callable[[], object]
    undoing: bool = False
    undone: Exit = Exit.DONE
    _written: float = 0.0
    _desired: tuple[object, Desired] | None = field(default=None, repr=False)

    @property
    def arguments(self) -> Mapping[str, Any]:
        return self.operation.arguments

    def desired(self) -> Desired:
        """Return what shall be now, by the config that was applied and the journal; read again when they changed."""
        stamp = atomic.version(self.paths.applied), atomic.version(self.paths.journal)
        if self._desired is None or self._desired[0] != stamp:
            context = Context(self.paths)
            self._desired = stamp, context.desired(context.applied_fleet)
        return self._desired[1]

    def want(self) -> DesiredService:
        """Return the operation's service as it shall be now; raises OperationFailed where it is gone."""
        services = self.desired().services
        if self.operation.service not in services:
            raise OperationFailed(f"service {self.operation.service} is not in the config any more", settled=True)
        return services[self.operation.service]

    def instances(self, names: Collection[str]) -> list[DesiredInstance]:
        """Return those of the service's instances with a process that are called one of ``names``."""
        return [want for want in self.want().instances if want.name in names and want.program is not None]

    def change(self, change: Callable[[ServiceRecord], ServiceRecord]) -> None:
        """Change the service's record in the journal."""
        name = self.operation.service
        fleet = Context(self.paths).applied_fleet

        def apply(journal: Journal) -> Journal:
            changed = journal.with_service(name, change(journal.services[name]))
            return make_desired(fleet, changed, self.paths).journal  # marks and home table go with it

        journal_file.update(self.paths.journal, apply)
        faults.point(f"{self.operation.verb} {self.operation.phase}: changed")
        self.wake()

    def enter(self, phase: str, *, owned: Iterable[str] = (), **arguments: Any) -> None:
        """Go on to ``phase``, from which the operation resumes; ``arguments`` are remembered with the others.

        ``owned`` are the instances that it starts and stops itself from now on.
        """
        merged = {**self.operation.arguments, **arguments}
        entered = replace(self.operation, phase=phase, note="", arguments=merged, done=0, total=0, owned=tuple(owned))
        self._save(entered)
        fields = {"number": self.operation.number, "verb": self.operation.verb, "service": self.operation.service}
        self.log("operation", **fields, phase=phase)
        faults.point(f"{self.operation.verb} {phase}")

    def remember(self, **arguments: Any) -> None:
        """Keep ``arguments`` with the others, for a watcher that resumes here."""
        self._save(replace(self.operation, arguments={**self.operation.arguments, **arguments}))

    def began(self, what: str) -> float:
        """Return when ``what`` began, in monotonic seconds: now, where nobody has asked before.

        Of what a watcher before this one began only the wall clock can tell, jumps and all.
        """
        known = self.arguments.get("began", {})
        if what in known:
            since = datetime.fromisoformat(known[what])
            return time.monotonic() - max(0.0, (datetime.now(UTC) - since).total_seconds())
        self.remember(began={**known, what: now()})
        return time.monotonic()

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Show how far the present phase is."""
        self.operation = replace(self.operation, done=done, total=total, note=note)
        if time.monotonic() - self._written > _PROGRESS:
            self._save(self.operation)

    def mark_begun(self) -> None:
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
        journal_file.update(self.paths.journal, apply)
        self._written = time.monotonic()

    async def pause(self, seconds: float) -> None:
        """Let the watcher work for a while; raises Cancelled when the operation was cancelled."""
        await asyncio.sleep(seconds)
        self.check()

    def check(self) -> None:
        """Raise Cancelled when an operator has cancelled the operation."""
        journal = journal_file.read(self.paths.journal)
        now = journal.operation(self.operation.number) if journal else None
        if now is None or (now.cancelled and not self.undoing):
            raise Cancelled

    def point(self, *, ready: Iterable[str] = ()) -> None:
        """Point the service's slots as they shall be now, in one transaction; ``ready`` were found to be so."""
        self.ejector.deal(self.want(), ready=ready)

    async def start(self, names: Iterable[str]) -> dict[str, str]:
        """Start instances and wait for them; gives {name: why not} for those that did not become ready.

        One on another box is only waited for.
        """
        found, executor, given_up = tuple(names), self.executor(), threading.Event()
        if not found:
            return {}
        seconds = executor.desired.services[self.operation.service].service.start_timeout
        await asyncio.to_thread(executor.start, [name for name in found if name in executor.desired.programs])
        executor.go_on = lambda: not given_up.is_set()
        waiting = asyncio.create_task(asyncio.to_thread(executor.wait, found, seconds))
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=_LOOK)
                self.check()
        finally:
            given_up.set()
            await asyncio.wait({waiting})
        waiting.result()
        if executor.failed and self.undoing:
            self.undone = Exit.TIMEOUT
        return executor.failed

    def executor(self) -> Executor:
        """Return what does steps, for use in another thread."""
        context = Context(self.paths)
        return Executor(self.desired(), context.plane, context.supervisor, context.paths, say=lambda _: None)

    async def pids(self) -> dict[str, int]:
        """Return {instance: pid} of every instance that has a process."""
        return await asyncio.to_thread(running, self.paths)

    async def hear(self, instances: Iterable[DesiredInstance]) -> dict[str, Heard]:
        """Ask instances for their status, side by side."""
        found = list(instances)
        return await asyncio.to_thread(lambda: hear(found, running(self.paths)))

    async def cannot_hand_off(self, senders: Iterable[DesiredInstance], receivers: Iterable[DesiredInstance]) -> str:
        """Return why connections of ``senders`` cannot go to ``receivers`` by hand-off; "" if they can."""
        mine, others = list(senders), list(receivers)
        heard = await self.hear([*mine, *others])
        return cannot_hand_off([i.name for i in mine], [i.name for i in others], heard)

    async def connections(self, instances: Iterable[DesiredInstance]) -> dict[str, int]:
        """Return how many established connections each instance has; one without a process has none."""
        found, service = list(instances), self.want().service
        return await asyncio.to_thread(lambda: connections(service, found, running(self.paths)))

    async def waiting(self, instances: Iterable[DesiredInstance]) -> int:
        """Return how many connections wait in the accept queues and in SYN_RECV of instances' ports."""
        queued = await asyncio.to_thread(sockdiag.waiting)
        return sum(queued[want.rule.port] for want in instances)


def running(paths: Paths) -> dict[str, int]:
    """Return {instance: pid} of every instance that has a process, supervisord's own and adopted ones."""
    return instances.running(Context(paths).supervisor, paths)


def kill(paths: Paths, name: str) -> None:
    """End an instance's process by SIGKILL, an adopted one too; supervisord starts it again where it is wanted."""
    pid = running(paths).get(name)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
