"""migrate: another instance or box serves a member's share; its slots went at once, its connections follow or drain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from portfleet.core.journal import Moved, ServiceRecord
from portfleet.core.model import member_instance
from portfleet.operations.empty import hand_over, let_end, spread
from portfleet.operations.task import OperationFailed, Task


async def run(task: Task) -> str:
    """Arguments: source and to (instances), member (whose share it is), percent (of the source's connections),
    handoff, share (in words, what holds then), before (where the share was migrated, None for nowhere); remembered:
    count (how many are to move)."""
    if task.operation.phase == "begin":
        there = sum((await task.connections(task.instances([task.arguments["source"]]))).values())
        task.enter("moving", count=there * int(task.arguments["percent"]) // 100)
    task.point()
    want, share, all_of_it = task.want(), task.arguments["share"], task.arguments["percent"] == 100
    found = task.instances([task.arguments["source"]])
    target = next(i for i in want.instances if i.name == task.arguments["to"])
    if not found:
        there = any(i.name == task.arguments["source"] for i in want.instances)
        return f"{share}; connections on another box stay there until they end" if there else share
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
    """Have the share served as it was before; connections stay where they are."""
    member, before, want = task.arguments["member"], task.arguments["before"], task.want()
    task.change(partial(_restored, member=member, before=before))
    task.point()
    owner = member_instance(want.name, member, want.live).name
    if before is None:
        return f"{owner} has its share again; connections stay where they are"
    there = member_instance(want.name, before["to"], want.live).name
    return f"{there} serves {before['percent']} % of {owner}'s share as before; connections stay where they are"


def _restored(record: ServiceRecord, *, member: str, before: Mapping[str, Any] | None) -> ServiceRecord:
    moved = {name: moved for name, moved in record.moved.items() if name != member}
    return replace(record, moved=moved | {member: Moved(**before)} if before else moved)
