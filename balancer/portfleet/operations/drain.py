"""drain and maint: the slots left when the operator's command returned; here the connections end or are handed off."""

from __future__ import annotations

from dataclasses import replace

from portfleet.core.printable import quantity
from portfleet.core.states import Wanted
from portfleet.core.work.drain import Drain
from portfleet.core.work.restart import Restart
from portfleet.operations.empty import HandoffResult, hand_over, let_end
from portfleet.operations.stop import stop
from portfleet.operations.task import Task, not_yet


async def run(task: Task[Drain]) -> str:
    """Hand off or end the connections, then stop the processes if it is for maintenance."""
    instances = task.instances(task.work.instances)
    siblings = [i for i in task.want().instances if i.takes and i.program is not None]
    names = ", ".join(i.name for i in instances)
    if task.operation.phase == "begin":
        task.enter("moving")
    await task.point()
    if task.operation.phase == "moving":
        handed = HandoffResult(0)
        if task.work.handoff:
            handed = await hand_over(task, [(instance, siblings) for instance in instances])
        left = handed.words() if handed.left else ""
        task.enter("ending", replace(task.work, handed=handed.moved, left=left))
    if task.operation.phase == "ending":
        ended = await let_end(task, instances, task.work.policy)
        task.enter(
            "stopping", replace(task.work, ended=ended.total, how=ended.words()), owned=[i.name for i in instances]
        )
    if task.work.stops:
        await stop(task, [i.name for i in instances], siblings if task.work.handoff else ())
    words = f"{names} {'in maintenance' if task.work.stops else 'drained'}: "
    words += task.work.left or f"{quantity(task.work.handed, 'connection')} handed off"
    return f"{words}, {task.work.how or f'{task.work.ended:,} ended'}"


async def undo(task: Task[Drain]) -> str:
    """Go back to what was asked of the instances before."""
    failed = await put_back(task)
    if failed:
        return not_yet(failed)
    names = task.work.instances
    back = [i.name for i in task.want().instances if i.name in names and i.takes]
    words = [f"{', '.join(back)} serves again"] if back else []
    return "; ".join(words + [f"{name} is drained as before" for name in names if name not in back])


async def put_back(task: Task[Drain] | Task[Restart]) -> dict[str, str]:
    """Ask of the operation's instances what was asked before it; return {name: why not} of those not ready then."""
    names = task.work.instances
    task.change(lambda record: record.asking_again(names, task.work.asked))
    back = [i.name for i in task.want().running if i.name in names and i.wanted is not Wanted.MAINTENANCE]
    return await task.serve(back)
