"""The watcher's side of operations: each in the journal gets a coroutine that advances it until it has ended.

Started again after its own death or a reboot, the engine finds the operations in the journal and goes on at their
phase. It also ends idle colours whose time is up.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable

from portfleet import journal_file
from portfleet.clock import now
from portfleet.errors import PortfleetError
from portfleet.journal import HistoryEntry, Operation
from portfleet.operate.keep import end_expired
from portfleet.operate.task import Cancelled, OperationFailed, Task
from portfleet.paths import Paths
from portfleet.watch.ejector import Ejector
from portfleet.watch.log import Log

_LOOK = 0.1


class Engine:
    """Runs the journal's operations in the watcher's loop."""

    def __init__(self, *, paths: Paths, ejector: Ejector, log: Log, wake: Callable[[], object]) -> None:
        self._paths, self._ejector, self._log, self._wake = paths, ejector, log, wake
        self._running: dict[int, asyncio.Task[None]] = {}
        self._stamp = 0

    async def run(self) -> None:
        """Look for operations for ever; on cancellation they are left as they are, to be resumed."""
        rounds = 0
        try:
            while True:
                self._look()
                if rounds % 10 == 0:
                    await self._expire()
                rounds += 1
                await asyncio.sleep(_LOOK)
        finally:
            for running in self._running.values():
                running.cancel()

    def _look(self) -> None:
        try:
            stamp = self._paths.journal.stat().st_mtime_ns
            if stamp == self._stamp:
                return
            self._stamp = stamp
            journal = journal_file.read(self._paths.journal)
        except (OSError, ValueError, PortfleetError):
            return  # the watcher's own look says what is wrong with the journal
        for operation in journal.operations if journal else ():
            if operation.number not in self._running:
                resumed = operation.phase != "begin"
                fields = {"number": operation.number, "verb": operation.verb, "service": operation.service}
                self._log("resumed" if resumed else "begins", **fields, who=operation.who, phase=operation.phase)
                self._running[operation.number] = asyncio.create_task(self._advance(operation))

    async def _expire(self) -> None:
        try:
            await end_expired(self._paths, self._log)
        except PortfleetError as error:
            self._log("cannot-end-idle-colour", reason=error.message.splitlines()[0])

    async def _advance(self, operation: Operation) -> None:
        task = Task(operation, self._paths, self._ejector, self._log, self._wake)
        verb = importlib.import_module(f"portfleet.operate.{operation.verb}")
        ok, outcome = False, ""
        try:
            ok, outcome = True, await verb.run(task)
        except Cancelled:
            outcome = f"cancelled; {await self._undo(verb.undo, task)}"
        except OperationFailed as error:
            outcome = str(error)
        except PortfleetError as error:
            outcome = error.message.splitlines()[0]
        except Exception as error:  # noqa: BLE001 (a defect in one operation must not end the watcher; it is told)
            outcome = f"internal error: {error!r}"
        self._end(task.operation, outcome, ok=ok)

    async def _undo(self, undo: Callable[[Task], object], task: Task) -> str:
        try:
            result = undo(task)
            return str(await result if asyncio.iscoroutine(result) else result)
        except (OperationFailed, PortfleetError) as error:
            return f"what was done stays: {error}"

    def _end(self, operation: Operation, outcome: str, *, ok: bool) -> None:
        entry = HistoryEntry(
            operation.number, now(), operation.who, operation.service, operation.verb, operation.words, outcome, ok
        )
        try:
            journal_file.update(self._paths.journal, lambda journal: journal.ended(operation, entry))
        except PortfleetError as error:
            self._log("cannot-write-journal", reason=error.message)
            return
        del self._running[operation.number]
        fields = {"number": operation.number, "verb": operation.verb, "service": operation.service}
        self._log("ended" if ok else "failed", **fields, outcome=outcome)
        self._wake()
