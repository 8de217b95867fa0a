"""scale: more instances are started and get their part of the slots; fewer give theirs and their connections away.

Up: begin (rules, processes, ready) → slots. Down: the slots left when the command returned; begin (connections) →
stopping → rules. Both colours have the same number, so idle instances above it end as well.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from portfleet.apply.context import Context
from portfleet.apply.observe import observe
from portfleet.core import steps
from portfleet.core.desired import DesiredInstance
from portfleet.core.errors import Exit
from portfleet.core.journal import ServiceRecord
from portfleet.core.model import COLOURS
from portfleet.core.plan import make_plan
from portfleet.operations.empty import HandoffResult, hand_over, let_end
from portfleet.operations.stop import stop
from portfleet.operations.task import OperationFailed, Task


async def run(task: Task) -> str:
    """Arguments: to, before (numbers of instances a colour), handoff; remembered: words."""
    up = task.arguments["to"] > task.arguments["before"]
    return await (_up(task) if up else _down(task))


async def undo(task: Task) -> str:
    """Go back to the number of before: what was started is drained and stopped, what was leaving serves again."""
    before, to = int(task.arguments["before"]), int(task.arguments["to"])
    task.change(lambda record: replace(record, instances=before, leaving=max(to, before)))
    names = [i.name for i in _numbered(task, to, before)]
    failed = await task.start(names)
    task.point(ready=set(names) - failed.keys())
    await _empty(task, before)
    await _forget(task, before)
    return f"{before} instances serve as before"


async def _up(task: Task) -> str:
    names = [i.name for i in _numbered(task, task.arguments["before"], task.arguments["to"])]
    task.enter("starting", owned=names)
    await asyncio.to_thread(_rules, task, steps.LoadRules)
    task.progress(0, len(names), "starting")
    if failed := await task.start(names):
        words = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise OperationFailed(f"did not become ready: {words}", code=Exit.TIMEOUT)
    live = task.want().live
    task.point(ready=names)
    return f"{task.arguments['to']} instances of {live} serve"


async def _down(task: Task) -> str:
    if task.operation.phase == "begin":
        task.enter("moving")
    task.point()
    if task.operation.phase == "moving":
        words = await _empty(task, task.arguments["to"])
        task.enter("stopping", words=words)
    await _forget(task, task.arguments["to"])
    return f"{task.arguments['to']} instances of {task.want().live} serve; {task.arguments['words']}"


async def _empty(task: Task, number: int) -> str:
    """Empty the instances above ``number``; gives in words what became of their connections."""
    want = task.want()
    leaving = _above(task, number)
    handed, policy = HandoffResult(0), want.service.drain
    if task.arguments["handoff"]:
        siblings = [i for i in want.instances if i.takes and i.program is not None]
        handed = await hand_over(task, [(instance, siblings) for instance in leaving])
    rate = None if task.arguments["handoff"] else policy.rate
    ended = await let_end(task, leaving, rate=rate, deadline=policy.deadline, then=policy.then)
    return f"{handed.words()}, {ended:,} ended"


async def _forget(task: Task, number: int) -> None:
    """Stop the instances above ``number`` and remove their rules."""
    last = max(task.arguments["before"], task.arguments["to"])
    names = [f"{task.operation.service}-{colour}-{n}" for colour in COLOURS for n in range(number + 1, last + 1)]
    task.enter("stopping", owned=names)
    siblings = [i for i in task.want().instances if i.takes and i.program is not None]
    await stop(task, names, siblings if task.arguments["handoff"] else ())
    task.change(_left)
    await asyncio.to_thread(_rules, task, steps.DropRules)


def _above(task: Task, number: int) -> list[DesiredInstance]:
    return [i for i in task.want().instances if i.program is not None and i.instance.number > number]


def _numbered(task: Task, above: int, until: int) -> list[DesiredInstance]:
    """Return the instances of colours that run whose numbers are over ``above`` and at most ``until``."""
    return [i for i in _above(task, above) if i.instance.number <= until]


def _left(record: ServiceRecord) -> ServiceRecord:
    return replace(record, leaving=0)


def _rules(task: Task, kind: type[steps.LoadRules] | type[steps.DropRules]) -> None:
    """Load the rules that are missing, or drop those of instances that are no more."""
    context, desired = Context(task.paths), task.desired()
    observed = observe(desired, plane=context.plane, supervisor=context.supervisor, paths=task.paths, probe=False)
    task.executor().run(step for step in make_plan(desired, observed).steps if isinstance(step, kind))
