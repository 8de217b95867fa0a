"""drain and maint: the slots left when the operator's command returned; here the connections end or are handed off."""

from __future__ import annotations

from dataclasses import replace

from portfleet.desired import InstanceWant
from portfleet.journal import ServiceRecord
from portfleet.operate.moving import hand_over, let_end
from portfleet.operate.task import OperationFailed, Task


async def run(task: Task) -> str:
    """Arguments: instances, rate, handoff, deadline, then, stop (maintenance: the process is stopped when drained)."""
    want = task.want()
    names = set(task.arguments["instances"])
    instances = [i for i in want.instances if i.name in names and i.program is not None]
    task.enter("moving")
    task.point()
    handed = 0
    if task.arguments["handoff"]:
        siblings = [i for i in want.instances if i.takes and i.program is not None]
        if not siblings:
            raise OperationFailed("nobody is left to take the connections; drain without --handoff")
        handed = await hand_over(task, [(instance, siblings) for instance in instances])
    task.enter("ending")
    ended = await let_end(
        task,
        instances,
        rate=task.arguments["rate"],
        deadline=task.arguments["deadline"],
        then=task.arguments["then"],
    )
    if task.arguments["stop"]:
        task.enter("stopping")
        await task.stop(i.name for i in instances)
    return f"{_names(instances)} drained: {handed:,} connections handed off, {ended:,} ended"


async def undo(task: Task) -> str:
    """Let the instances serve again."""
    names = set(task.arguments["instances"])
    task.change(lambda record: without(record, names))
    task.point()
    return f"{', '.join(sorted(names))} serves again"


def without(record: ServiceRecord, names: set[str]) -> ServiceRecord:
    """Give the record in which nothing is asked of ``names`` any more."""
    return replace(record, asked={name: asked for name, asked in record.asked.items() if name not in names})


def _names(instances: list[InstanceWant]) -> str:
    return ", ".join(i.name for i in instances)
