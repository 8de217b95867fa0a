"""Watches a canary: errors and latency of the new colour against the live one, by the daemons' own counters.

Other daemons have none; for them a canary fails when one of its instances is ejected or restarted.
"""

from __future__ import annotations

from dataclasses import replace

from portfleet.core.canary import Canary, CanaryStart, Counted, judge
from portfleet.core.counters import Counters, add
from portfleet.core.desired import DesiredInstance
from portfleet.core.model import Colour, other
from portfleet.core.work.cutover import Cutover
from portfleet.operations.task import Task

_LOOK = 0.5


async def watch(task: Task[Cutover], colour: Colour, *, percent: int, plan: Canary) -> str:
    """Watch one step of the canary for ``plan.every`` seconds; return what is wrong, "" when the time is up.

    Remembered: canary_from, what there was at the step's begin, so that a watcher that resumes judges all of it.
    """
    began = task.began(f"canary at {percent} %")
    there = [want for want in task.want().instances if want.program is not None]
    mine = [want for want in there if want.instance.colour == colour]
    theirs = [want for want in there if want.instance.colour == other(colour)]
    pids, *first = await _first(task, mine, theirs, percent=percent)
    while (spent := task.world.clock.monotonic() - began) < plan.every:
        task.progress(int(spent), int(plan.every), f"canary at {percent} %")
        await task.pause(_LOOK)
        if out := [want.name for want in mine if want.name in task.world.ejector.out]:
            return f"{out[0]} was ejected: {task.world.ejector.out[out[0]].reason}"
        now = await task.world.daemons.pids()
        if changed := [want.name for want in mine if now.get(want.name) != pids[want.name]]:
            return f"{changed[0]} was restarted"
        after = await _counters(task, mine), await _counters(task, theirs)
        fault = judge(
            after[0].since(first[0]),
            after[1].since(first[1]),
            max_errors=plan.max_errors,
            max_p99=plan.max_p99,
        )
        if fault:
            return fault
    return ""


async def _first(
    task: Task[Cutover], mine: list[DesiredInstance], theirs: list[DesiredInstance], *, percent: int
) -> tuple[dict[str, int | None], Counters, Counters]:
    """Return the processes and both colours' counters at the begin of a step, as they were remembered or are now."""
    now = await task.world.daemons.pids()
    pids = {want.name: now.get(want.name) for want in (*mine, *theirs)}
    known = task.work.canary_from
    # After a reboot every process is another one: none of them crashed, and all counters begin anew.
    if known and known.percent == percent and any(known.pids.get(name) == pid for name, pid in pids.items()):
        return dict(known.pids), known.canary.counters(), known.live.counters()
    first = await _counters(task, mine), await _counters(task, theirs)
    start = CanaryStart(percent, pids, Counted.of(first[0]), Counted.of(first[1]))
    task.remember(replace(task.work, canary_from=start))
    return pids, *first


async def _counters(task: Task[Cutover], instances: list[DesiredInstance]) -> Counters:
    """Sum what instances count; another daemon, and one that hangs, say nothing: probes tell of those."""
    heard = (await task.world.daemons.hear(instances)).values()
    return add(one.status.counters for one in heard if one.status and one.status.counters)
