"""cutover and rollback: the idle colour is started with its release, gets all slots at once, then the connections.

Phases: begin (start the idle colour, wait until all are ready) → canary (a share of the slots for a while, watched) →
switch (all slots in one transaction) → moving (established connections handed off, or drained by the policy) → end.
Until ``switch`` clients of the live colour notice nothing, whatever becomes of the new release.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from portfleet.clock import now, stamp
from portfleet.desired import InstanceWant, ServiceWant
from portfleet.journal import ColourRecord, ServiceRecord
from portfleet.model import Colour, other
from portfleet.operate import canary
from portfleet.operate.logtail import last_lines
from portfleet.operate.moving import hand_over, let_end
from portfleet.operate.task import OperationFailed, Task


async def run(task: Task) -> str:
    """Make the other colour live. The journal is changed before processes are stopped: it says what is to run.

    Arguments: colour (the one that becomes live), before (its record to go back to), keep (seconds), handoff,
    canary ({"steps": [per cent …], "every", "max_errors", "max_p99"} or None).
    """
    colour: Colour = task.arguments["colour"]
    if task.operation.phase == "begin":
        await _start(task, colour)
        task.enter("canary" if task.arguments["canary"] else "switch")
    if task.operation.phase == "canary":
        await _canary(task, colour)
        task.enter("switch")
    if task.operation.phase == "switch":
        task.change(lambda record: replace(record, live=colour, canary=0))
        task.point(ready=[i.name for i in of(task.want(), colour)])
        task.enter("moving")
    result = await _move(task, colour)
    task.change(lambda record: _kept(record, other(colour), task.arguments["keep"]))
    if task.arguments["keep"] == 0:
        task.change(lambda record: _stopped(record, other(colour)))
        await task.stop(i.name for i in of(task.want(), other(colour)))
    release = task.want().release
    return f"{task.operation.service} is live on {colour}" + (f", release {release}" if release else "") + f"; {result}"


async def undo(task: Task) -> str:
    """Give up: before the switch the idle colour is ended; after it everything goes back to the old one."""
    colour: Colour = task.arguments["colour"]
    want = task.want()
    if want.live == colour:
        task.change(lambda record: replace(record, live=other(colour)))
        task.point(ready=[i.name for i in of(task.want(), other(colour))])
    return await _abandon(task, colour)


def of(want: ServiceWant, colour: Colour) -> list[InstanceWant]:
    """Give a service's instances of one colour."""
    return [instance for instance in want.instances if instance.instance.colour == colour]


async def _start(task: Task, colour: Colour) -> None:
    want = task.want()
    instances = of(want, colour)
    names = [i.name for i in instances]
    task.progress(0, len(names), f"starting {len(names)} instances of {colour}")
    failed = await task.start(names)
    task.check()
    if failed:
        name, reason = next(iter(failed.items()))
        words = last_lines(task.paths.log_of(name))
        await _abandon(task, colour)
        raise OperationFailed(
            f"{len(failed)} of {len(names)} instances of the new release did not become ready, so nothing changed "
            f"for clients. {name}: {reason}" + (f"; its last words: {words}" if words else "")
        )


async def _canary(task: Task, colour: Colour) -> None:
    plan: dict[str, Any] = task.arguments["canary"]
    steps: list[int] = plan["steps"]
    for number in range(int(task.arguments.get("step", 0)), len(steps)):
        percent = steps[number]
        task.enter("canary", step=number)
        task.change(partial(_canary_at, percent=percent))
        task.point(ready=[i.name for i in of(task.want(), colour)])
        fault = await canary.watch(task, colour, percent=percent, plan=plan)
        if fault:
            await _abandon(task, colour)
            raise OperationFailed(f"rolled back at {percent} %: {fault}; {other(colour)} serves everything")


async def _abandon(task: Task, colour: Colour) -> str:
    """Take everything from ``colour``, hand its connections back, stop it, and remember what it ran before."""
    old = other(colour)
    task.change(lambda record: replace(record, canary=0))
    task.point()
    want = task.want()
    there = [i for i in of(want, colour) if i.program is not None]
    counts = await task.connections(there)
    busy = [i for i in there if counts[i.name]]
    back = 0
    if busy and want.service.ours:
        pairs = [(sender, [receiver]) for sender in busy if (receiver := counterpart(want, sender)).takes]
        back = await hand_over(task, pairs)
    elif busy:
        await let_end(task, busy, rate=want.service.drain.rate, deadline=want.service.drain.deadline, then="evict")
    before = task.arguments["before"]
    task.change(lambda record: _restored(record, colour, before))
    await task.stop(i.name for i in there)
    return f"{old} serves" + (f", {back:,} connections were handed back" if back else "")


async def _move(task: Task, colour: Colour) -> str:
    """Empty the old colour: by hand-off member to member, else by the service's drain policy."""
    want = task.want()
    olds = [i for i in of(want, other(colour)) if i.program is not None]
    if task.arguments["handoff"]:
        moved = await hand_over(task, [(sender, [counterpart(want, sender)]) for sender in olds])
        return f"{moved:,} connections were handed off"
    policy = want.service.drain
    ended = await let_end(task, olds, rate=policy.rate, deadline=policy.deadline, then=policy.then)
    return f"{ended:,} connections of {other(colour)} were drained"


def counterpart(want: ServiceWant, instance: InstanceWant) -> InstanceWant:
    """Give the instance of the other colour with the same number."""
    return next(
        i
        for i in want.instances
        if i.instance.number == instance.instance.number and i.instance.colour not in (None, instance.instance.colour)
    )


def _canary_at(record: ServiceRecord, *, percent: int) -> ServiceRecord:
    return replace(record, canary=percent)


def _kept(record: ServiceRecord, colour: Colour, keep: float) -> ServiceRecord:
    until = stamp((datetime.now(UTC) + timedelta(seconds=keep)).timestamp())
    idle = replace(record.colours[colour], keep_until=until, since=now())
    return replace(record, colours={**record.colours, colour: idle})


def _stopped(record: ServiceRecord, colour: Colour) -> ServiceRecord:
    idle = replace(record.colours[colour], stopped=True, keep_until=None)
    return replace(record, colours={**record.colours, colour: idle})


def _restored(record: ServiceRecord, colour: Colour, before: dict[str, Any] | None) -> ServiceRecord:
    """Give the record with what ``colour`` ran before, stopped; without it where it had never run."""
    colours = {name: value for name, value in record.colours.items() if name != colour}
    if before is not None:
        command = tuple(before["command"]) if before["command"] else None
        colours[colour] = replace(ColourRecord(**{**before, "command": command}), stopped=True, keep_until=None)
    return replace(record, colours=colours)
