"""migrate: another instance or box serves a member's share; its slots went at once, its connections follow or drain."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from portfleet.core.model import member_instance
from portfleet.core.operations import policy_of
from portfleet.core.printable import quantity
from portfleet.core.records import Moved, ServiceRecord
from portfleet.core.work.migrate import Migrate
from portfleet.operations.empty import Order, hand_over, let_end, spread
from portfleet.operations.task import OperationFailed, Task, not_yet


async def run(task: Task[Migrate]) -> str:
    """Hand the connections over, or drain them by the service's policy; a part that cannot move stays."""
    work = task.work
    if task.operation.phase == "begin":
        there = sum((await task.connections(task.instances([work.source]))).values())
        task.enter("moving", replace(work, count=there * work.percent // 100))
    await task.point()
    want, share, all_of_it = task.want(), work.share, work.percent == 100
    found = task.instances([work.source])
    target = next(i for i in want.instances if i.name == work.to)
    if not found:
        there = any(i.name == work.source for i in want.instances)
        return f"{share}; connections on another box stay there until they end" if there else share
    source = found[0]
    if work.handoff and all_of_it:
        handed = await hand_over(task, [(source, [target])])
        if handed.left:
            raise OperationFailed(f"{share}; {handed.words()} and stay until they end", settled=True)
        return f"{share}; {handed.words()}"
    if work.handoff:
        moved, why, _ = await spread(task, [Order(source, [target], task.work.count)])
        others = f", the others stay: {why}" if why else ""
        return f"{share}; {quantity(moved, 'connection', 'was')} handed off{others}"
    if all_of_it:
        ended = await let_end(task, found, policy_of(want.service.drain))
        return f"{share}; connections of {work.source}: {ended.words()}"
    return f"{share}; established connections stay where they are until they end"


async def undo(task: Task[Migrate]) -> str:
    """Have the share served as it was before; connections stay where they are."""
    member, before, want = task.work.member, task.work.before, task.want()
    task.change(partial(_restored, member=member, before=before))
    owner = member_instance(want.name, member, want.live).name
    failed = await task.serve([i.name for i in task.want().instances if i.name == owner and i.takes])
    if failed:
        return not_yet(failed)
    if before is None:
        return f"{owner} has its share again; connections stay where they are"
    there = member_instance(want.name, before.to, want.live).name
    return f"{there} serves {before.percent} % of {owner}'s share as before; connections stay where they are"


def _restored(record: ServiceRecord, *, member: str, before: Moved | None) -> ServiceRecord:
    moved = {name: moved for name, moved in record.moved.items() if name != member}
    return replace(record, moved=moved | {member: before} if before else moved)
