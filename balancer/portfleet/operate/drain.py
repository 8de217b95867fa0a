"""drain and maint: the slots left when the operator's command returned; here the connections end or are handed off."""

from __future__ import annotations

from dataclasses import replace

from portfleet.journal import ServiceRecord
from portfleet.operate.moving import Handed, hand_over, let_end
from portfleet.operate.stopping import stop
from portfleet.operate.task import Task


async def run(task: Task) -> str:
    """Arguments: instances, rate, handoff, deadline, then, stop (maintenance: the process is stopped when drained).

    Remembered: handed (how many were handed off).
    """
    instances = task.instances(task.arguments["instances"])
    siblings = [i for i in task.want().instances if i.takes and i.program is not None]
    names = ", ".join(i.name for i in instances)
    if task.operation.phase == "begin":
        task.enter("moving")
    task.point()
    if task.operation.phase == "moving":
        handed = Handed(0)
        if task.arguments["handoff"]:
            handed = await hand_over(task, [(instance, siblings) for instance in instances])
        task.enter("ending", handed=handed.moved, left=handed.words() if handed.left else "")
    if task.operation.phase == "ending":
        ended = await let_end(
            task,
            instances,
            rate=task.arguments["rate"],
            deadline=task.arguments["deadline"],
            then=task.arguments["then"],
        )
        task.enter("stopping", owned=[i.name for i in instances], ended=ended)
    if task.arguments["stop"]:
        await stop(task, [i.name for i in instances], siblings if task.arguments["handoff"] else ())
    words = f"{names} {'in maintenance' if task.arguments['stop'] else 'drained'}: "
    words += task.arguments["left"] or f"{task.arguments['handed']:,} connections handed off"
    return f"{words}, {task.arguments['ended']:,} ended"


async def undo(task: Task) -> str:
    """Let the instances serve again."""
    names = [i.name for i in task.instances(task.arguments["instances"])]
    task.change(lambda record: without(record, set(names)))
    failed = await task.start(names)
    task.point(ready=set(names) - failed.keys())
    if failed:
        return "; ".join(f"{name} is to serve again, but: {reason}" for name, reason in failed.items())
    return f"{', '.join(names)} serves again"


def without(record: ServiceRecord, names: set[str]) -> ServiceRecord:
    """Give the record in which nothing is asked of ``names`` any more."""
    return replace(record, asked={name: asked for name, asked in record.asked.items() if name not in names})
