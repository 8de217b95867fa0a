"""undrain: instances are started where they were stopped, told to take connections, and get their slots back."""

from __future__ import annotations

import asyncio

from portfleet.control import ControlError, ask
from portfleet.desired import InstanceWant
from portfleet.operate.task import OperationFailed, Task


async def run(task: Task) -> str:
    """Arguments: instances."""
    names = set(task.arguments["instances"])
    want = task.want()
    instances = [i for i in want.instances if i.name in names and i.program is not None]
    task.enter("starting")
    if failed := await task.start(i.name for i in instances):
        raise OperationFailed("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    if want.service.ours:
        await asyncio.to_thread(_resume, instances)
    task.point(ready=names)
    return f"{', '.join(sorted(names))} serves"


def undo(_: Task) -> str:
    """An undrain has nothing to go back to: the journal asks for serving already."""
    return "it serves as soon as it is ready"


def _resume(instances: list[InstanceWant]) -> None:
    """End evictions that a drain had begun."""
    for want in instances:
        try:
            ask(want.control, "resume", seconds=2)
        except ControlError:
            continue  # just started, or not draining: nothing to end
