"""The watcher's side of operations: each in the journal gets a coroutine that advances it until it has ended.

Started again after its own death or a reboot, the engine finds the operations in the journal and goes on at their
phase, or goes on undoing them; the outcome says so. An operation that fails is undone, unless it says that what it
did holds. It also ends idle colours whose time is up.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import STAYS, ColourRecord, HistoryEntry, Journal, Operation
from portfleet.core.paths import Paths
from portfleet.operations.expire import end_expired
from portfleet.operations.task import Cancelled, CannotUndo, OperationFailed, Task
from portfleet.store import journal as journal_file
from portfleet.store import locks
from portfleet.store.clock import now
from portfleet.store.log import Log
from portfleet.watch.ejector import Ejector

_LOOK = 0.1
#: How often a phase is entered again when what it needs does not answer, and seconds between.
_TRIES, _AGAIN = 5, 1.0


class Engine:
    """Runs the journal's operations in the watcher's loop."""

    def __init__(self, *, paths: Paths, ejector: Ejector, log: Log, wake: Callable[[], object]) -> None:
        self._paths, self._ejector, self._log, self._wake = paths, ejector, log, wake
        self._running: dict[int, asyncio.Task[None]] = {}

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
        for number in [number for number, running in self._running.items() if running.done()]:
            del self._running[number]
        try:
            journal = journal_file.read(self._paths.journal)
        except (OSError, ValueError, PortfleetError):
            return  # the watcher's own look says what is wrong with the journal
        for operation in journal.operations if journal else ():
            # Whoever holds the service's lock is still writing the operation down, or applies a config.
            if operation.number not in self._running and not locks.held(self._paths.operation_lock(operation.service)):
                self._begin(operation)

    def _begin(self, operation: Operation) -> None:
        resumed = operation.begun
        fields = {"number": operation.number, "verb": operation.verb, "service": operation.service}
        phase = "undoing" if operation.failed or operation.cancelled else operation.phase
        self._log("resumed" if resumed else "begins", **fields, who=operation.who, phase=phase)
        marked = replace(operation, begun=True, resumed=phase if resumed else operation.resumed)
        self._running[operation.number] = asyncio.create_task(self._advance(marked))

    async def _expire(self) -> None:
        try:
            await end_expired(self._paths, self._log)
        except PortfleetError as error:
            self._log.once("cannot-end-idle-colour", reason=error.message.splitlines()[0])

    async def _advance(self, operation: Operation) -> None:
        task = Task(operation, self._paths, self._ejector, self._log, self._wake)
        verb = importlib.import_module(f"portfleet.operations.{operation.verb}")
        try:
            outcome, code = await self._outcome(verb, task)
        except CannotUndo as done:
            outcome, code = str(done), Exit.DONE
        if killed := task.arguments.get("killed"):
            outcome += f"; {', '.join(killed)} did not answer and was ended by SIGKILL"
        if task.operation.resumed:
            outcome += f" (resumed at {task.operation.resumed!r} after the watcher had been away)"
        await self._end(task.operation, outcome, ok=code is Exit.DONE, code=code)

    async def _outcome(self, verb: ModuleType, task: Task) -> tuple[str, Exit]:
        """Advance the operation, and undo it where it cannot go on; gives what came of it. Raises TooLate."""
        try:
            task.mark_begun()
            if failed := task.operation.failed:
                return f"{failed}; {await self._undo(verb, task)}", task.undone or Exit.FAILED
            return await self._attempt(verb, task), Exit.DONE
        except Cancelled:
            return await self._give_up(verb, task, "cancelled"), task.undone or Exit.FAILED
        except OperationFailed as error:
            return str(error) if error.settled else await self._give_up(verb, task, str(error)), error.code
        except CannotUndo:
            raise
        except PortfleetError as error:
            return await self._give_up(verb, task, error.message.splitlines()[0]), Exit.FAILED
        except Exception as error:  # noqa: BLE001 (a defect in one operation must not end the watcher; it is told)
            return await self._give_up(verb, task, f"internal error: {error!r}"), Exit.FAILED

    async def _attempt(self, verb: ModuleType, task: Task) -> str:
        """Run the operation; where supervisord or the kernel does not answer, enter its phase again a little later."""
        for last in [False] * (_TRIES - 1) + [True]:
            try:
                return str(await verb.run(task))
            except PortfleetError as error:
                self._log("tries-again", number=task.operation.number, reason=error.message.splitlines()[0])
                if last:
                    raise
            await task.pause(_AGAIN)
        raise AssertionError("the last try returns or raises")

    async def _give_up(self, verb: ModuleType, task: Task, reason: str) -> str:
        return f"{reason}; {await self._undo(verb, task, reason)}"

    async def _undo(self, verb: ModuleType, task: Task, reason: str = "") -> str:
        """Undo the operation; tried again while the disk is full or supervisord is away, for both come to an end."""
        refused = 0
        while True:
            try:
                task.begin_undo(reason or task.operation.failed)
                return str(await verb.undo(task))
            except CannotUndo:
                raise
            except OperationFailed as error:
                return f"{STAYS}: {error}"
            except PortfleetError as error:
                refused += error.code is Exit.KERNEL
                if refused == _TRIES:
                    return f"{STAYS}: {error}"
                self._log.once("cannot-undo", number=task.operation.number, reason=error.message.splitlines()[0])
                await asyncio.sleep(_AGAIN)
            except Exception as error:  # noqa: BLE001 (as above)
                return f"{STAYS}: internal error: {error!r}"

    async def _end(self, operation: Operation, outcome: str, *, ok: bool, code: Exit) -> None:
        def ended(journal: Journal) -> Journal:
            record = journal.services.get(operation.service)
            ran = record.colours.get(record.live, ColourRecord()) if record else ColourRecord()
            entry = HistoryEntry(
                operation.number, now(), operation.who, operation.service, operation.verb, operation.words, outcome,
                ok, int(code), ran.release, ran.command,
            )  # fmt: skip
            return journal.ended(operation, entry)

        fields = {"number": operation.number, "verb": operation.verb, "service": operation.service}
        while True:
            try:
                journal_file.update(self._paths.journal, ended)
                break
            except PortfleetError as error:  # a full disk: it is told as soon as it can be
                self._log.once("cannot-write-journal", number=operation.number, reason=error.message.splitlines()[0])
                await asyncio.sleep(_AGAIN)
        self._log("ended" if ok else "failed", **fields, outcome=outcome)
        self._wake()
