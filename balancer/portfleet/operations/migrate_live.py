"""migrate --live: an instance is drained, and its established connections go on at another box."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from portfleet.core.printable import quantity
from portfleet.core.records import Asked, ServiceRecord
from portfleet.core.work.migrate_live import MigrateLive
from portfleet.daemons.relocation import Relocated
from portfleet.operations.empty import QuietCheck
from portfleet.operations.task import OperationFailed, Task, not_yet

#: Rounds in which nothing moves after which it is given up, and seconds between them: what a process that ended
#: has held, passes again by then.
_TRIES, _AGAIN = 3, 2.0


async def run(task: Task[MigrateLive]) -> str:
    """Move connections until none is left or none can be moved; those that cannot stay."""
    if task.operation.phase == "begin":
        task.enter("moving")
    await task.point()
    found = task.instances([task.work.source])
    settled, tries = QuietCheck(task, found), 0
    while True:
        left = sum((await task.connections(found)).values())
        task.progress(task.work.moved, task.work.moved + left, f"moving to {task.work.box}")
        if await settled.look(left):
            return f"{_words(task.work)}; none is left here"
        if not left:
            await task.pause(settled.again)
            continue
        before = task.work.moved
        last = await _round(task, left)
        tries = tries + 1 if task.work.moved == before else 0
        if tries == _TRIES or (tries and last.stayed):
            why = last.why or ", ".join(f"{count:,}: {reason}" for reason, count in last.stayed.items())
            raise OperationFailed(
                f"{_words(task.work)}; {quantity(left, '', 'stays')} here until closed ({why})", settled=True
            )
        if tries:
            await task.pause(_AGAIN)


async def _round(task: Task[MigrateLive], count: int) -> Relocated:
    """Have ``count`` connections moved once; return the last that was said of it."""
    work, last = task.work, Relocated()
    source = task.instances([work.source])[0]
    async with aclosing(task.world.daemons.relocate(source, work.box, count=count, ssh=work.ssh)) as said:
        async for last in said:
            took = work.seconds + last.seconds
            task.remember(replace(task.work, moved=work.moved + last.moved, seconds=took))
            task.progress(task.work.moved, work.moved + count, f"moving to {work.box}")
            if not last.done:
                task.check()
    return last


def _words(work: MigrateLive) -> str:
    took = f" in {work.seconds:.2f} s" if work.seconds else ""
    return f"{work.source} is drained; {quantity(work.moved, 'connection', 'was')} moved to {work.box}{took}"


async def undo(task: Task[MigrateLive]) -> str:
    """Let the instance serve new connections again; what was moved stays at the other box."""
    source = task.work.source
    task.change(partial(_served, source=source, before=task.work.asked))
    failed = await task.serve([i.name for i in task.want().instances if i.name == source and i.takes])
    words = not_yet(failed) or f"{source} serves again"
    return f"{words}; {quantity(task.work.moved, 'connection', 'stays')} at {task.work.box}"


def _served(record: ServiceRecord, *, source: str, before: Mapping[str, Asked]) -> ServiceRecord:
    return record.asking_again([source], before)
