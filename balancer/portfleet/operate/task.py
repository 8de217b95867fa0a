"""What an operation works with: its own record in the journal, the service as it shall be, and hands to change both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from portfleet import journal_file
from portfleet.context import Context
from portfleet.control import ControlError, ask
from portfleet.desired import Desired, InstanceWant, ServiceWant
from portfleet.execute import Executor
from portfleet.journal import Journal, Operation, ServiceRecord
from portfleet.paths import Paths
from portfleet.sockdiag import established
from portfleet.watch.ejector import Ejector
from portfleet.watch.log import Log

#: How often progress is written to the journal, in seconds.
_PROGRESS = 0.5


class Cancelled(Exception):
    """An operator asked for the operation to be given up."""


class OperationFailed(Exception):
    """The operation cannot go on; the text says why and what holds now."""


@dataclass
class Task:
    """One running operation. What may take long is a coroutine; nothing here blocks the watcher's loop for long."""

    operation: Operation
    paths: Paths
    ejector: Ejector
    log: Log
    wake: Callable[[], object]
    _written: float = 0.0

    @property
    def arguments(self) -> Mapping[str, Any]:
        return self.operation.arguments

    def desired(self) -> Desired:
        """Give what shall be now, by the config that was applied and the journal."""
        context = Context(self.paths)
        return context.desired(context.applied_fleet)

    def want(self) -> ServiceWant:
        """Give the operation's service as it shall be now; raises OperationFailed where it is gone."""
        services = self.desired().services
        if self.operation.service not in services:
            raise OperationFailed(f"service {self.operation.service} is not in the config any more")
        return services[self.operation.service]

    def change(self, change: Callable[[ServiceRecord], ServiceRecord]) -> None:
        """Change the service's record in the journal."""
        name = self.operation.service

        def apply(journal: Journal) -> Journal:
            return journal.with_service(name, change(journal.services[name]))

        journal_file.update(self.paths.journal, apply)
        self.wake()

    def enter(self, phase: str, **arguments: Any) -> None:
        """Go on to ``phase``, from which the operation resumes; ``arguments`` are remembered with the others."""
        merged = {**self.operation.arguments, **arguments}
        self._save(replace(self.operation, phase=phase, note="", arguments=merged, done=0, total=0))
        fields = {"number": self.operation.number, "verb": self.operation.verb, "service": self.operation.service}
        self.log("operation", **fields, phase=phase)

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Show how far the present phase is."""
        self.operation = replace(self.operation, done=done, total=total, note=note)
        if time.monotonic() - self._written > _PROGRESS:
            self._save(self.operation)

    def _save(self, operation: Operation) -> None:
        def apply(journal: Journal) -> Journal:
            now = journal.operation(operation.number)
            if now is None or now.cancelled:
                raise Cancelled
            return journal.with_operation(operation)

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
        if now is None or now.cancelled:
            raise Cancelled

    def point(self, *, ready: Iterable[str] = ()) -> None:
        """Point the service's slots as they shall be now, in one transaction; ``ready`` were found to be so."""
        self.ejector.deal(self.want(), ready=ready)

    async def start(self, names: Iterable[str]) -> dict[str, str]:
        """Start instances and wait for them; gives {name: why not} for those that did not become ready."""
        found, executor = tuple(names), self._executor()
        seconds = executor.desired.services[self.operation.service].service.start_timeout
        await asyncio.to_thread(executor.start, found)
        await asyncio.to_thread(executor.wait, found, seconds)
        return executor.failed

    async def stop(self, names: Iterable[str]) -> None:
        """Stop instances (a second SIGTERM ends a daemon that drains) and have supervisord forget them."""
        await asyncio.to_thread(self._executor().end, tuple(names))

    def _executor(self) -> Executor:
        context = Context(self.paths)
        return Executor(self.desired(), context.kernel, context.supervisor, context.paths, say=lambda _: None)

    async def connections(self, instances: Iterable[InstanceWant]) -> dict[str, int]:
        """Give how many established connections each instance has; one without a process has none."""
        return await asyncio.to_thread(self._connections, list(instances))

    def _connections(self, instances: list[InstanceWant]) -> dict[str, int]:
        programs = Context(self.paths).supervisor.programs()
        ours = self.want().service.ours
        by_port = None if ours else established()
        found = {}
        for want in instances:
            info = programs.get(want.name)
            if info is None or info.pid is None:
                found[want.name] = 0
            else:
                found[want.name] = by_port[want.rule.port] if by_port is not None else _asked(want)
        return found


def _asked(want: InstanceWant) -> int:
    try:
        return int(ask(want.control, "status", seconds=2)["connections"])
    except ControlError:
        return established()[want.rule.port]
