"""drain and maint: the slots left when the operator's command returned; here the connections end or are handed off."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from portfleet.core.journal import Asked, ServiceRecord
from portfleet.core.states import Wanted
from portfleet.operations.empty import Handed, hand_over, let_end
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
    task.change(partial(restored, names=names, asked=task.arguments["asked"]))
    back = [i.name for i in task.want().running if i.name in names and i.wanted is not Wanted.MAINTENANCE]
    failed = await task.start(back)
    task.point(ready=set(back) - failed.keys())
    return failed


def asked_of(record: ServiceRecord, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Give what is asked of ``names``, for an operation to remember."""
    return {name: asdict(asked) for name, asked in record.asked.items() if name in names}


def restored(record: ServiceRecord, *, names: Collection[str], asked: Mapping[str, Mapping[str, Any]]) -> ServiceRecord:
    """Give the record in which of ``names`` is ``asked`` what was before; whom an undrain has let in stays in."""
    back = {name: Asked(**asked[name]) for name in names if name in asked and name in record.asked}
    return replace(record, asked={**without(record, set(names)).asked, **back})


def without(record: ServiceRecord, names: set[str]) -> ServiceRecord:
    """Give the record in which nothing is asked of ``names`` any more."""
    return replace(record, asked={name: asked for name, asked in record.asked.items() if name not in names})
