"""restart: rolling; each gives slots and connections to its siblings, restarts, and takes its slots again."""

from __future__ import annotations

from portfleet.core.errors import Exit
from portfleet.core.journal import Asked
from portfleet.operations import rebalance
from portfleet.operations.drain import put_back
from portfleet.operations.empty import hand_over, let_end
from portfleet.operations.stop import stop
from portfleet.operations.task import OperationFailed, Task
from portfleet.store.clock import now

#: The largest max/mean that a restart leaves behind.
_EVEN = 1.25


async def run(task: Task) -> str:
    """Arguments: instances (in order), at_once, handoff, asked (what was asked of them before); remembered: done
    (instances that have been restarted)."""
    names: list[str] = list(task.arguments["instances"])
    done: list[str] = list(task.arguments.get("done", []))
    while left := [name for name in names if name not in done]:
        batch = left[: task.arguments["at_once"]]
        task.enter(f"restarting {', '.join(batch)}", owned=batch, done=done)
        task.progress(len(done), len(names))
        await _one_batch(task, batch)
        done += batch
    task.enter("evening out", done=done)
    even = f"; {await rebalance.even_out(task, limit=_EVEN)}" if task.arguments["handoff"] else ""
    return f"{', '.join(done)} restarted{even}"


async def undo(task: Task) -> str:
    """Let whoever is away serve again; who does not start is revived by the watcher and serves when it is ready."""
    failed = await put_back(task)
    done = ", ".join(task.arguments.get("done", [])) or "none"
    if failed:
        away = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        return f"restarted: {done}; the others serve, the watcher goes on trying {away}"
    return f"restarted: {done}; all serve"


async def _one_batch(task: Task, names: list[str]) -> None:
    asked = Asked("drained", since=now(), who=task.operation.who, why=f"restart, operation {task.operation.number}")
    task.change(lambda record: record.asking(names, asked))
    task.point()
    want = task.want()
    if held := [name for name in names if name in task.ejector.table(want.name) and task.ejector.serves(name)]:
        raise OperationFailed(f"stopped rolling: nobody else can serve the clients of {', '.join(held)} now")
    batch = task.instances(names)
    siblings = [i for i in want.instances if i.takes and i.program is not None]
    if task.arguments["handoff"]:
        handed = await hand_over(task, [(instance, siblings) for instance in batch])
        if handed.left:
            raise OperationFailed(f"stopped rolling, nobody was disconnected: {handed.words()}")
    else:
        policy = want.service.drain
        await let_end(task, batch, rate=policy.rate, deadline=policy.deadline, then=policy.then)
    await stop(task, names, siblings if task.arguments["handoff"] else ())
    if failed := await task.start(names):
        words = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise OperationFailed(f"stopped rolling: {words}", code=Exit.TIMEOUT)
    task.change(lambda record: record.asking_again(names, task.arguments["asked"]))
    task.point(ready=names)
