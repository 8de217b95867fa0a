"""scale: more instances are started and get their part of the slots; fewer give theirs and their connections away.

Up: begin (rules, processes, ready) → slots. Down: the slots left when the command returned; begin (connections) →
stopping → rules. Both colours have the same number, so idle instances above it end as well.
"""

from __future__ import annotations

from dataclasses import replace

from portfleet.apply.execute import Executor
from portfleet.core import steps
from portfleet.core.desired import Desired, DesiredInstance
from portfleet.core.errors import Exit
from portfleet.core.model import COLOURS
from portfleet.core.operations import policy_of
from portfleet.core.plan import make_plan
from portfleet.core.printable import quantity
from portfleet.core.records import ServiceRecord
from portfleet.core.work.scale import Scale
from portfleet.operations.empty import HandoffResult, hand_over, let_end
from portfleet.operations.stop import stop
from portfleet.operations.task import OperationFailed, Task, not_yet
from portfleet.operations.world import World


async def run(task: Task[Scale]) -> str:
    """Go to the number that was asked for."""
    up = task.work.to > task.work.before
    return await (_up(task) if up else _down(task))


async def undo(task: Task[Scale]) -> str:
    """Go back to the number of before: what was started is drained and stopped, what was leaving serves again."""
    before, to = task.work.before, task.work.to
    task.change(lambda record: replace(record, instances=before, leaving=max(to, before)))
    await task.world.in_thread(_rules, task.world, task.desired(), steps.LoadRules)
    failed = await task.serve([i.name for i in _numbered(task, to, before)])
    await _empty(task, before)
    await _forget(task, before)
    return not_yet(failed) or f"{quantity(before, 'instance', 'serves')} as before"


async def _up(task: Task[Scale]) -> str:
    names = [i.name for i in _numbered(task, task.work.before, task.work.to)]
    task.enter("starting", owned=names)
    await task.world.in_thread(_rules, task.world, task.desired(), steps.LoadRules)
    task.progress(0, len(names), "starting")
    if failed := await task.start(names) or await task.live_on(names):
        words = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise OperationFailed(f"did not become ready: {words}", code=Exit.TIMEOUT)
    live = task.want().live
    await task.point(ready=names)
    return f"{live} serves with {quantity(task.work.to, 'instance')}"


async def _down(task: Task[Scale]) -> str:
    if task.operation.phase == "begin":
        task.enter("moving")
    await task.point()
    if task.operation.phase == "moving":
        words = await _empty(task, task.work.to)
        task.enter("stopping", replace(task.work, words=words))
    await _forget(task, task.work.to)
    return f"{task.want().live} serves with {quantity(task.work.to, 'instance')}; {task.work.words}"


async def _empty(task: Task[Scale], number: int) -> str:
    """Empty the instances above ``number``; return in words what became of their connections."""
    want = task.want()
    leaving = _above(task, number)
    handed, policy = HandoffResult(0), policy_of(want.service.drain)
    if task.work.handoff:
        siblings = [i for i in want.instances if i.takes and i.program is not None]
        handed = await hand_over(task, [(instance, siblings) for instance in leaving])
    ended = await let_end(task, leaving, replace(policy, rate=None) if task.work.handoff else policy)
    return f"{handed.words()}, {ended.words()}"


async def _forget(task: Task[Scale], number: int) -> None:
    """Stop the instances above ``number`` and remove their rules."""
    last = max(task.work.before, task.work.to)
    names = [f"{task.operation.service}-{colour}-{n}" for colour in COLOURS for n in range(number + 1, last + 1)]
    task.enter("stopping", owned=names)
    siblings = [i for i in task.want().instances if i.takes and i.program is not None]
    await stop(task, names, siblings if task.work.handoff else ())
    task.change(_left)
    await task.world.in_thread(_rules, task.world, task.desired(), steps.DropRules)


def _above(task: Task[Scale], number: int) -> list[DesiredInstance]:
    return [i for i in task.want().instances if i.program is not None and i.instance.number > number]


def _numbered(task: Task[Scale], above: int, until: int) -> list[DesiredInstance]:
    """Return the instances of colours that run whose numbers are over ``above`` and at most ``until``."""
    return [i for i in _above(task, above) if i.instance.number <= until]


def _left(record: ServiceRecord) -> ServiceRecord:
    return replace(record, leaving=0)


def _rules(world: World, desired: Desired, kind: type[steps.LoadRules] | type[steps.DropRules]) -> None:
    """Load the rules that are missing, or drop those of instances that are no more."""
    plan = make_plan(desired, world.observe(desired))
    executor = Executor(world.programs(desired), world.plane, world.store, say=lambda _: None)
    executor.run(step for step in plan.steps if isinstance(step, kind))
