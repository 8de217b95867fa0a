"""undrain: instances are started where they were stopped, told to take connections, and get their slots back."""

from __future__ import annotations

import asyncio

from portfleet.core.desired import DesiredInstance
from portfleet.core.errors import Exit
from portfleet.daemons.answers import ControlError
from portfleet.daemons.control import ask
from portfleet.operations.task import OperationFailed, Task


async def run(task: Task) -> str:
    """Arguments: instances."""
    names: list[str] = list(task.arguments["instances"])
    task.enter("starting", owned=names)
    await asyncio.to_thread(_resume, task.instances(names))
    there = [i.name for i in task.want().running if i.name in names]
    failed = await task.start(there)
    task.point(ready=set(there) - failed.keys())
    if failed:
        words = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise OperationFailed(f"{words}; it serves as soon as it is ready", settled=True, code=Exit.TIMEOUT)
    return f"{', '.join(names)} serves"


async def undo(_: Task) -> str:
    """An undrain has nothing to go back to: the journal asks for serving already."""
    return "it serves as soon as it is ready"


def _resume(instances: list[DesiredInstance]) -> None:
    """End evictions that a drain had begun."""
    for want in instances:
        if not want.ours:
            continue
        try:
            ask(want.control, "resume", seconds=2)
        except ControlError:
            continue  # not running yet: nothing to end
