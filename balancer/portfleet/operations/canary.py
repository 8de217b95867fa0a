"""Watches a canary: errors and latency of the new colour against the live one, by the daemons' own counters.

Other daemons have none; for them a canary fails when one of its instances is ejected or restarted. Silence is no sign
of health: a canary that was asked too little is watched longer, and then given up.
"""

from __future__ import annotations

import shlex
from dataclasses import replace

from portfleet.core.canary import PATIENCE, Canary, CanaryStart, Counted, due, judge, seen
from portfleet.core.counters import Counters, add
from portfleet.core.desired import DesiredInstance
from portfleet.core.model import Colour, other
from portfleet.core.printable import quantity
from portfleet.core.work.cutover import Cutover
from portfleet.operations.empty import Order, spread
from portfleet.operations.task import Task

_LOOK = 0.5


async def watch(task: Task[Cutover], colour: Colour, *, percent: int, plan: Canary) -> str:
    """Watch one step of the canary for ``plan.every`` seconds; return what is wrong, "" when the time is up.

    One that saw too few requests by then, or no connection if its daemons count none, is watched on, at most for
    `PATIENCE` times as long. Remembered: canary_from, what there was at the step's begin, so that a watcher that
    resumes judges all of it.
    """
    began = task.began(f"canary at {percent} %")
    there = [want for want in task.want().instances if want.program is not None]
    mine = [want for want in there if want.instance.colour == colour]
    theirs = [want for want in there if want.instance.colour == other(colour)]
    pids, *first = await _first(task, mine, theirs, percent=percent)
    evidence, most = "", 0
    while (spent := task.world.clock.monotonic() - began) < plan.every or evidence:
        if spent >= PATIENCE * plan.every:
            return f"{evidence}; to promote it all the same: {_promoting(task, colour)}"
        task.progress(int(spent), int(plan.every), f"canary at {percent} %; {evidence}".removesuffix("; "))
        await task.pause(_LOOK)
        if out := [want.name for want in mine if want.name in task.world.ejector.out]:
            return f"{out[0]} was ejected: {task.world.ejector.out[out[0]].reason}"
        now = await task.world.daemons.pids()
        if changed := [want.name for want in mine if now.get(want.name) != pids[want.name]]:
            return f"{changed[0]} was restarted"
        counted = await _counting(task, mine)
        came, live = add(counted).since(first[0]), (await _counters(task, theirs)).since(first[1])
        fault = judge(came, live, max_errors=plan.max_errors, max_p99=plan.max_p99)
        if fault:
            return fault
        most = max(most, sum((await task.connections(mine)).values()))
        evidence = _lacks(plan, requests=seen(came) if counted else None, connections=most)
    return ""


def _promoting(task: Task[Cutover], colour: Colour) -> str:
    """Return the command that makes ``colour``'s release live without a canary."""
    ran = task.want().record.colours[colour]
    words = ["portfleet", "cutover", task.want().name]
    words += ["--release", ran.release] if ran.release else []
    words += ["--command", shlex.join(ran.command)] if ran.command else []
    return shlex.join(words)


def _lacks(plan: Canary, *, requests: int | None, connections: int) -> str:
    """Return what a canary lacks to be judged, "" for nothing; ``requests`` is None if its daemons do not count them.

    ``connections``: the most that were met at once.
    """
    if requests is None:
        return "it saw no connection" if plan.min_requests and not connections else ""
    words = f"it saw {quantity(requests, 'request')}, {quantity(plan.min_requests, '', 'is')} needed to judge it"
    return words if requests < plan.min_requests else ""


async def take_share(task: Task[Cutover], colour: Colour, *, percent: int) -> None:
    """Hand ``percent`` of the established connections to the canary, as many as it lacks of that share.

    Clients that stay connected would otherwise never meet it. What cannot be handed off stays with the live colour.
    """
    want = task.want()
    pairs = [(old, new) for old in want.of(other(colour)) for new in want.of(colour) if _counterparts(old, new)]
    counts = await task.connections([i for pair in pairs for i in pair])
    for old, new in pairs:
        if count := due(counts[old.name], percent=percent, there=counts[new.name]):
            await spread(task, [Order(old, [new], count)])


def _counterparts(old: DesiredInstance, new: DesiredInstance) -> bool:
    return old.instance.number == new.instance.number and old.program is not None and new.takes


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
    return add(await _counting(task, instances))


async def _counting(task: Task[Cutover], instances: list[DesiredInstance]) -> list[Counters]:
    """Return what each of those instances counts that do count."""
    heard = (await task.world.daemons.hear(instances)).values()
    return [one.status.counters for one in heard if one.status and one.status.counters]
