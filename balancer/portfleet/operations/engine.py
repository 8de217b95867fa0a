"""The watcher's side of operations: each in the journal gets a coroutine that advances it until it has ended.

Started again after its own death or a reboot, the engine finds the operations in the journal and goes on at their
phase, or goes on undoing them; the outcome says so. An operation that fails is undone, unless it says that what it
did holds. It also ends idle colours whose time is up.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.history import fields_of
from portfleet.core.journal import HistoryEntry, Journal
from portfleet.core.operations import Operation, Unreadable, Work
from portfleet.core.records import ColourRecord
from portfleet.operations.automatic import begin_rollbacks
from portfleet.operations.expire import end_expired
from portfleet.operations.task import AGAIN, LOCKED, TRIES, Cancelled, CannotUndo, OperationFailed, SlotsRefused, Task
from portfleet.operations.verbs import VERBS, Verb
from portfleet.operations.world import World
from portfleet.store import locks
from portfleet.store.locks import Locked
from portfleet.watch.priority import yielding

_LOOK = 0.1
#: Seconds until an operation is advanced again that a defect has stopped.
_DEFECT = 10.0

#: How an outcome says that an operation was not undone.
_STAYS = "what was done stays"


@dataclass(frozen=True)
class Outcome:
    """What came of an operation; ``stays``: it was to be undone and was not."""

    words: str
    code: Exit = Exit.DONE
    stays: bool = False


class Engine:
    """Runs the journal's operations in the watcher's loop."""

    def __init__(self, world: World) -> None:
        self._world, self._log = world, world.log
        self._running: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look for operations for ever; on cancellation they are left as they are, to be resumed."""
        rounds = 0
        try:
            while True:
                with self._log.costs("operations"):
                    self._look()
                if rounds % 10 == 0:
                    await yielding(self._expire())
                    with self._log.costs("rollbacks"):
                        begin_rollbacks(self._world)
                rounds += 1
                await self._world.pause(_LOOK)
        finally:
            for running in self._running.values():
                running.cancel()

    def _look(self) -> None:
        for number, running in list(self._running.items()):
            if running.done():
                del self._running[number]
        try:
            journal = self._world.store.read()
        except PortfleetError:
            return  # the watcher's own look says what is wrong with the journal
        for operation in journal.operations if journal else ():
            # Whoever holds the service's lock is still writing the operation down, or applies a config.
            lock = self._world.paths.operation_lock(operation.service)
            if operation.number not in self._running and not locks.held(lock):
                self._begin(operation)

    def _begin(self, operation: Operation) -> None:
        resumed = operation.begun
        fields = {"operation": operation.number, "verb": operation.verb, "service": operation.service}
        phase = "undoing" if operation.failed or operation.cancelled else operation.phase
        self._log("operation-resumed" if resumed else "operation-begun", **fields, operator=operation.who, phase=phase)
        noted = replace(operation, begun=True, resumed=phase if resumed else operation.resumed)
        self._running[operation.number] = asyncio.create_task(yielding(self._guarded(noted)))

    async def _guarded(self, operation: Operation) -> None:
        """Advance an operation; a defect that even its undoing does not catch is met again only after a while."""
        try:
            await self._advance(operation)
        except Exception as error:  # noqa: BLE001 (it costs this operation alone; it is told)
            self._log.unexpected(f"operation {operation.number}", error)
            await self._world.pause(_DEFECT)

    async def _expire(self) -> None:
        with self._log.costs("idle colours"):
            await end_expired(self._world)

    async def _advance(self, operation: Operation) -> None:
        if isinstance(operation.work, Unreadable):
            await self._end(operation, Outcome(f"{operation.work.why}; {_STAYS}", Exit.FAILED, stays=True))
            return
        verb, task = VERBS[type(operation.work)], Task[Work](operation, self._world)
        outcome = await self._outcome(verb, task)
        try:
            await self._end(task.operation, _told(outcome, task), unless_cancelled=not task.undoing)
        except Cancelled:
            outcome = await self._give_up(verb, task, "cancelled")
            await self._end(task.operation, _told(outcome, task))

    async def _outcome(self, verb: Verb, task: Task[Work]) -> Outcome:
        """Advance the operation, and undo it if it cannot go on."""
        try:
            await self._note_begun(task)
            if failed := task.operation.failed:
                return await self._give_up(verb, task, failed)
            return Outcome(await self._attempt(verb, task))
        except Cancelled:
            return await self._give_up(verb, task, "cancelled")
        except OperationFailed as error:
            words, code = str(error), error.code
            return Outcome(words, code) if error.settled else await self._give_up(verb, task, words, code)
        except PortfleetError as error:
            return await self._give_up(verb, task, error.message.splitlines()[0], Exit.FAILED)
        except Exception as error:  # noqa: BLE001 (a defect in one operation must not end the watcher; it is told)
            self._log.unexpected(f"operation {task.operation.number}", error)
            return await self._give_up(verb, task, f"internal error: {error!r}", Exit.FAILED)

    async def _attempt(self, verb: Verb, task: Task[Work]) -> str:
        """Run the operation; if supervisord or the kernel does not answer, enter its phase again a little later.

        A lock that another process holds is waited for, however long, without blocking the loop.
        """
        tries = 0
        while True:
            try:
                return await verb.run(task)
            except Locked as error:
                self._world.waits(task.operation, error)
                again = LOCKED
            except SlotsRefused:
                raise
            except PortfleetError as error:
                tries += 1
                self._world.tries_again(task.operation, error)
                if tries == TRIES:
                    raise
                again = AGAIN
            await task.pause(again)

    async def _note_begun(self, task: Task[Work]) -> None:
        while True:
            try:
                return task.note_begun()
            except Locked as error:
                self._world.waits(task.operation, error)
                await self._world.pause(LOCKED)

    async def _give_up(self, verb: Verb, task: Task[Work], reason: str, code: Exit | None = None) -> Outcome:
        """Undo the operation for ``reason``; without a ``code`` the way that went decides it."""
        try:
            words, stays = await self._undo(verb, task, reason), False
        except CannotUndo as done:
            return Outcome(str(done) if done.code is Exit.DONE else f"{reason}; {done}", done.code)
        except OperationFailed as error:
            words, stays = f"{_STAYS}: {error}", True
        return Outcome(f"{reason}; {words}", code or task.undone or Exit.FAILED, stays)

    async def _undo(self, verb: Verb, task: Task[Work], reason: str) -> str:
        """Undo the operation; tried again while the disk is full or supervisord is away, for both come to an end.

        Raises CannotUndo, and OperationFailed if what was done stays.
        """
        refused = 0
        while True:
            try:
                task.begin_undo(reason)
                return await verb.undo(task)
            except (CannotUndo, OperationFailed):
                raise
            except SlotsRefused as error:
                raise OperationFailed(str(error)) from None
            except Locked as error:
                self._world.waits(task.operation, error)
                await self._world.pause(LOCKED)
            except PortfleetError as error:
                refused += error.code is Exit.KERNEL
                if refused == TRIES:
                    raise OperationFailed(str(error)) from None
                self._log.once(
                    "cannot-undo",
                    operation=task.operation.number,
                    service=task.operation.service,
                    reason=error.message.splitlines()[0],
                )
                await self._world.pause(AGAIN)
            except Exception as error:
                self._log.unexpected(f"operation {task.operation.number}", error)
                raise OperationFailed(f"internal error: {error!r}") from error

    async def _end(self, operation: Operation, outcome: Outcome, *, unless_cancelled: bool = False) -> None:
        """Write down that an operation has ended; with ``unless_cancelled`` raise Cancelled if it was cancelled."""

        def ended(journal: Journal) -> Journal:
            now = journal.operation(operation.number)
            if unless_cancelled and now is not None and now.cancelled:
                raise Cancelled
            record = journal.services.get(operation.service)
            ran = record.colours.get(record.live, ColourRecord()) if record else ColourRecord()
            entry = HistoryEntry(
                number=operation.number,
                at=self._world.clock.now(),
                who=operation.who,
                service=operation.service,
                verb=operation.verb,
                words=operation.words,
                outcome=outcome.words,
                ok=outcome.code is Exit.DONE,
                code=int(outcome.code),
                release=ran.release,
                command=ran.command,
                stays=outcome.stays,
            )
            return journal.noting(entry)

        while True:
            try:
                entry = self._world.store.update(ended).history[-1]
                break
            except Locked as error:
                self._world.waits(operation, error)
                await self._world.pause(LOCKED)
            except PortfleetError as error:  # a full disk: it is told as soon as it can be
                self._log.once(
                    "cannot-write-journal",
                    operation=operation.number,
                    service=operation.service,
                    reason=error.message.splitlines()[0],
                )
                await self._world.pause(AGAIN)
        self._log("operation-ended" if entry.ok else "operation-failed", **fields_of(entry))
        self._world.wake()


def _told(outcome: Outcome, task: Task[Work]) -> Outcome:
    """Return an operation's outcome with what its history is to say beside."""
    words = outcome.words
    if killed := task.work.killed:
        words += f"; {', '.join(killed)} did not answer and was ended by SIGKILL"
    if task.operation.resumed:
        words += f" (resumed at {task.operation.resumed!r} after the watcher had been away)"
    return replace(outcome, words=words)
