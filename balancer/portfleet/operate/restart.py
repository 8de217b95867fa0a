"""restart: rolling; each gives slots and connections to its siblings, restarts, and takes its slots again."""

from __future__ import annotations

from dataclasses import replace

from portfleet.clock import now
from portfleet.desired import InstanceWant
from portfleet.journal import Asked
from portfleet.operate import rebalance
from portfleet.operate.drain import without
from portfleet.operate.moving import hand_over, let_end
from portfleet.operate.task import OperationFailed, Task


async def run(task: Task) -> str:
    """Arguments: instances (in order), at_once, handoff; remembered: done (instances that have been restarted)."""
    names: list[str] = list(task.arguments["instances"])
    done: list[str] = list(task.arguments.get("done", []))
    while left := [name for name in names if name not in done]:
        batch = left[: task.arguments["at_once"]]
        task.enter(f"restarting {', '.join(batch)}", done=done)
        await _one_batch(task, batch)
        done += batch
    task.enter("evening out", done=done)
    if task.arguments["handoff"]:
        await rebalance.even_out(task, limit=1.25)
    return f"{len(done)} instances were restarted, one batch of {task.arguments['at_once']} at a time"


async def undo(task: Task) -> str:
    """Let whoever is away serve again."""
    names = set(task.arguments["instances"])
    task.change(lambda record: without(record, names))
    if failed := await task.start(names & {i.name for i in task.want().running}):
        raise OperationFailed("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    task.point(ready=names)
    return "all serve"


async def _one_batch(task: Task, names: list[str]) -> None:
    number = task.operation.number
    asked = Asked("drained", since=now(), who=task.operation.who, why=f"restart, operation {number}")
    task.change(lambda record: replace(record, asked={**record.asked, **dict.fromkeys(names, asked)}))
    task.point()
    want = task.want()
    batch: list[InstanceWant] = [i for i in want.instances if i.name in names]
    siblings = [i for i in want.instances if i.takes and i.program is not None]
    if task.arguments["handoff"]:
        await hand_over(task, [(instance, siblings) for instance in batch])
    else:
        policy = want.service.drain
        await let_end(task, batch, rate=policy.rate, deadline=policy.deadline, then=policy.then)
    await task.stop(names)
    failed = await task.start(names)
    if failed:
        words = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise OperationFailed(f"stopped rolling, the others serve: {words}. Undo with: portfleet undrain")
    task.change(lambda record: without(record, set(names)))
    task.point(ready=names)
