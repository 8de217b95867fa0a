"""restart: rolling; each gives slots and connections to its siblings, restarts, and takes its slots again."""

from __future__ import annotations

from dataclasses import replace

from portfleet.core.errors import Exit
from portfleet.core.operations import RATE, policy_of
from portfleet.core.printable import quantity
from portfleet.core.records import Asked
from portfleet.core.work.restart import Restart
from portfleet.operations import rebalance
from portfleet.operations.drain import put_back
from portfleet.operations.empty import hand_over, let_end
from portfleet.operations.stop import stop
from portfleet.operations.task import OperationFailed, Task

#: The largest max/mean that a restart leaves behind.
_EVEN = 1.25


async def run(task: Task[Restart]) -> str:
    """Restart batch by batch, then even out what the hand-offs have left uneven."""
    names, done = task.work.instances, task.work.done
    while left := [name for name in names if name not in done]:
        batch = left[: task.work.at_once]
        task.enter(f"restarting {', '.join(batch)}", replace(task.work, done=done), owned=batch)
        task.progress(len(done), len(names))
        await _one_batch(task, batch)
        done = (*done, *batch)
    task.enter("evening out", replace(task.work, done=done))
    even = f"; {await rebalance.even_out(task, limit=_EVEN)}" if task.work.handoff else ""
    closed, reset = task.work.closed, task.work.reset
    even += f"; {quantity(closed, 'connection', 'was')} closed" * bool(closed)
    even += f"; {quantity(reset, 'connection', 'was')} reset" * bool(reset)
    return f"{', '.join(done)} restarted{even}"


async def undo(task: Task[Restart]) -> str:
    """Let whoever is away serve again; who does not start is revived by the watcher and serves when it is ready."""
    failed = await put_back(task)
    done = ", ".join(task.work.done) or "none"
    if failed:
        away = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        return f"restarted: {done}; the others serve, the watcher goes on trying {away}"
    return f"restarted: {done}; all serve"


async def _one_batch(task: Task[Restart], names: list[str]) -> None:
    if unproven := await task.unproven(names):
        raise OperationFailed(f"stopped rolling before anything was stopped: {'; '.join(unproven)}")
    asked = Asked(
        "drained",
        since=task.world.clock.now(),
        who=task.operation.who,
        why=f"restart, operation {task.operation.number}",
    )
    task.change(lambda record: record.asking(names, asked))
    await task.point()
    want = task.want()
    if held := [name for name in task.holding(names) if task.serves(name)]:
        raise OperationFailed(f"stopped rolling: no other instance can serve the clients of {', '.join(held)} now")
    batch = task.instances(names)
    siblings = [i for i in want.instances if i.takes and i.program is not None]
    if task.work.handoff:
        handed = await hand_over(task, [(instance, siblings) for instance in batch])
        if handed.left:
            raise OperationFailed(f"stopped rolling, no connection was lost: {handed.words()}")
    else:
        policy = policy_of(want.service.drain)
        policy = replace(policy, rate=task.work.rate) if task.work.rate else policy
        ended = await let_end(task, batch, policy, for_ever=False)
        if ended.left:
            raise OperationFailed(
                f"stopped rolling, no connection was closed: {', '.join(names)}: {ended.words()} after "
                f"{policy.deadline:g} s; to reset them: portfleet restart {want.name}/{names[0]} --rate {RATE}"
            )
        task.remember(replace(task.work, closed=task.work.closed + ended.closed, reset=task.work.reset + ended.reset))
    await stop(task, names, siblings if task.work.handoff else ())
    if failed := await task.start(names) or await task.live_on(names):
        words = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise OperationFailed(f"stopped rolling: {words}", code=Exit.TIMEOUT)
    task.change(lambda record: record.asking_again(names, task.work.asked))
    await task.point(ready=names)
