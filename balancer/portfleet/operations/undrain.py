"""undrain: instances that were stopped are started, told to take connections, and get their slots back."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from portfleet.core.errors import Exit
from portfleet.core.work.undrain import Undrain
from portfleet.daemons.answers import ControlError
from portfleet.operations.task import OperationFailed, Task


async def run(task: Task[Undrain]) -> str:
    """Start what is stopped, end evictions, and give back slots as soon as all are ready or the time is up."""
    names = task.work.instances
    task.enter("starting", owned=names)
    await _resume(task, names)
    there = [i.name for i in task.want().running if i.name in names]
    if failed := await task.serve(there):
        words = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise OperationFailed(f"{words}; it serves as soon as it is ready", settled=True, code=Exit.TIMEOUT)
    return f"{', '.join(names)} serves"


async def undo(task: Task[Undrain]) -> str:
    """An undrain has nothing to go back to: the journal asks for serving already, and who was ready has slots."""
    await task.point()
    return "it serves as soon as it is ready"


async def _resume(task: Task[Undrain], names: Collection[str]) -> None:
    """End evictions that a drain had begun; one that does not run, or is never asked, has none."""
    for want in task.instances(names):
        with suppress(ControlError):
            await task.world.daemons.tell(want, "resume")
