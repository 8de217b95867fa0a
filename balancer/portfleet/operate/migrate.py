"""migrate: another instance or box serves a member's share; its slots went at once, its connections follow or drain."""

from __future__ import annotations

from dataclasses import replace

from portfleet.operate.moving import let_end, move_some
from portfleet.operate.task import Task


async def run(task: Task) -> str:
    """Arguments: source (instance), member, to (instance), percent, handoff."""
    task.enter("moving")
    task.point(ready=[task.arguments["to"]])
    want = task.want()
    source = next(i for i in want.instances if i.name == task.arguments["source"])
    target = next(i for i in want.instances if i.name == task.arguments["to"])
    percent = int(task.arguments["percent"])
    share = f"{percent} % of {source.name}'s share goes to {target.name}"
    there = (await task.connections([source]))[source.name]
    if task.arguments["handoff"]:
        count = there if percent == 100 else there * percent // 100
        moved = await move_some(source, target, None if percent == 100 else count) if count else 0
        return f"{share}; {moved:,} connections were handed off"
    if percent == 100:
        policy = want.service.drain
        ended = await let_end(task, [source], rate=policy.rate, deadline=policy.deadline, then=policy.then)
        return f"{share}; {ended:,} connections were drained"
    return f"{share}; its {there:,} connections stay until they end"


def undo(task: Task) -> str:
    """Give the share back; connections stay where they are."""
    member = task.arguments["member"]
    task.change(lambda r: replace(r, moved={name: moved for name, moved in r.moved.items() if name != member}))
    task.point()
    return f"{task.arguments['source']} has its share again"
