"""migrate: another instance or box serves a member's share; its slots went at once, its connections follow or drain."""

from __future__ import annotations

from dataclasses import replace

from portfleet.operate.moving import hand_over, let_end, spread
from portfleet.operate.task import OperationFailed, Task


async def run(task: Task) -> str:
    """Arguments: source and to (instances), member (whose share it is), percent (of the source's connections),
    handoff, share (in words, what holds then); remembered: count (how many are to move)."""
    if task.operation.phase == "begin":
        there = sum((await task.connections(task.instances([task.arguments["source"]]))).values())
        task.enter("moving", count=there * int(task.arguments["percent"]) // 100)
    task.point(ready=[task.arguments["to"]])
    want, share, all_of_it = task.want(), task.arguments["share"], task.arguments["percent"] == 100
    found = task.instances([task.arguments["source"]])
    target = next(i for i in want.instances if i.name == task.arguments["to"])
    if not found:
        return f"{share}; connections on another box stay there until they end"
    source = found[0]
    if task.arguments["handoff"] and all_of_it:
        handed = await hand_over(task, [(source, [target])])
        if handed.left:
            raise OperationFailed(f"{share}; {handed.words()} and stay until they end", settled=True)
        return f"{share}; {handed.words()}"
    if task.arguments["handoff"]:
        moved, why, _ = await spread(task, source, [target], int(task.arguments["count"]))
        return f"{share}; {moved:,} connections were handed off" + (f", the others stay: {why}" if why else "")
    if all_of_it:
        policy = want.service.drain
        ended = await let_end(task, found, rate=policy.rate, deadline=policy.deadline, then=policy.then)
        return f"{share}; {ended:,} connections were drained"
    return f"{share}; established connections stay where they are until they end"


async def undo(task: Task) -> str:
    """Give the share back; connections stay where they are."""
    member = task.arguments["member"]
    task.change(lambda r: replace(r, moved={name: moved for name, moved in r.moved.items() if name != member}))
    task.point()
    return f"{task.arguments['source']} has its share again; connections stay where they are"
