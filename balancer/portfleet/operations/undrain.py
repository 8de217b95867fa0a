"""undrain: instances are started where they were stopped, told to take connections, and get their slots back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from portfleet.core.desired import DesiredInstance
from portfleet.core.errors import Exit
from portfleet.daemons.answers import ControlError
from portfleet.daemons.control import ask
from portfleet.daemons.instances import PATIENCE, control_of
from portfleet.operations.task import OperationFailed, Task


async def run(task: Task) -> str:
    """Arguments: instances."""
    names: list[str] = list(task.arguments["instances"])
    task.enter("starting", owned=names)
    await asyncio.to_thread(_resume, task.instances(names), await task.pids())
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


def _resume(instances: list[DesiredInstance], pids: Mapping[str, int]) -> None:
    """End evictions that a drain had begun; of an instance that does not run, or is never asked, there is none."""
    for want in instances:
        if (place := control_of(want, pids)) is not None:
            with suppress(ControlError):
                ask(place, "resume", seconds=PATIENCE)
