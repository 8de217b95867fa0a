"""drain and maint: the slots left when the operator's command returned; here the connections end or are handed off."""

from __future__ import annotations

from portfleet.core.states import Wanted
from portfleet.operations.empty import HandoffResult, hand_over, let_end
from portfleet.operations.stop import stop
from portfleet.operations.task import Task


async def run(task: Task) -> str:
    """Arguments: instances, rate, handoff, deadline, then, stop (maintenance: the process is stopped when drained),
    asked (what was asked of them before).

    Remembered: handed (how many were handed off).
    """
    instances = task.instances(task.arguments["instances"])
    siblings = [i for i in task.want().instances if i.takes and i.program is not None]
    names = ", ".join(i.name for i in instances)
    if task.operation.phase == "begin":
        task.enter("moving")
    task.point()
    if task.operation.phase == "moving":
        handed = HandoffResult(0)
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
    """Go back to what was asked of the instances before."""
    failed = await put_back(task)
    if failed:
        return "; ".join(f"{name} is to serve again, but: {reason}" for name, reason in failed.items())
    names: list[str] = task.arguments["instances"]
    back = [i.name for i in task.want().instances if i.name in names and i.takes]
    words = [f"{', '.join(back)} serves again"] if back else []
    return "; ".join(words + [f"{name} is drained as before" for name in names if name not in back])


async def put_back(task: Task) -> dict[str, str]:
    """Ask of the operation's instances what was asked before it; gives {name: why not} for those not ready then."""
    names: list[str] = task.arguments["instances"]
    task.change(lambda record: record.asking_again(names, task.arguments["asked"]))
    back = [i.name for i in task.want().running if i.name in names and i.wanted is not Wanted.MAINTENANCE]
    failed = await task.start(back)
    task.point(ready=set(back) - failed.keys())
    return failed
