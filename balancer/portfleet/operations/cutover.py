"""cutover and rollback: the idle colour is started with its release, gets all slots, then the connections.

Phases: begin (start the idle colour, wait until all are ready) → canary (a share of the slots for a while, watched) →
switch (one connection is handed to each new instance, which may hang on its first request; then all slots change, a
part at a time, so that clients do not notice) → moving (established connections handed off, or drained by the policy)
→ keeping (how long the old colour is kept). Until ``switch`` clients of the live colour notice nothing, whatever
becomes of the new release.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from portfleet.core.desired import DesiredInstance
from portfleet.core.errors import Exit
from portfleet.core.model import Colour, other
from portfleet.core.operations import policy_of
from portfleet.core.printable import quantity
from portfleet.core.records import ColourRecord, ServiceRecord
from portfleet.core.work.cutover import Cutover
from portfleet.operations import canary
from portfleet.operations.empty import HandoffResult, Pairs, hand_over, let_end
from portfleet.operations.release_check import hanging, ready_of, refuse_hanging, refuse_unserved, taste
from portfleet.operations.releases import outlived
from portfleet.operations.stop import stop
from portfleet.operations.task import CannotUndo, OperationFailed, Task
from portfleet.store.clock import stamp
from portfleet.supervise.exit_report import last_signs

#: How often a new release is asked whether it can hand off, and seconds between: its port may be open before its
#: control socket is.
_ASKED, _AGAIN = 3, 0.2


async def run(task: Task[Cutover]) -> str:
    """Make the other colour live. The journal is changed before processes are stopped: it says what is to run."""
    colour, first = task.work.colour, 0
    if task.operation.phase == "begin":
        began = task.world.clock.monotonic()
        await _start(task, colour)
        if task.work.fresh:
            names = [i.name for i in task.want().of(colour) if i.startable]
            if ended := await task.live_on(names):
                words = "; ".join(f"{name} {why}" for name, why in ended.items())
                raise OperationFailed(f"nothing changed for clients; {words}", code=Exit.TIMEOUT)
        handoff = task.work.handoff and await _can_take(task, colour)
        phase = "canary" if task.work.canary else "switch"
        task.enter(phase, replace(_took(task, "ready", began), handoff=handoff))
    if task.operation.phase == "canary":
        began = task.world.clock.monotonic()
        await _canary(task, colour)
        task.enter("switch", _took(task, "canary", began))
    if task.operation.phase == "switch":
        first = await taste(task, colour) if task.work.handoff else 0
        began = task.world.clock.monotonic()
        task.change(partial(_switched, colour=colour, config_release=task.work.config_release))
        await task.point(ready=[i.name for i in task.want().of(colour)])
        task.enter("moving", _took(task, "switch", began))
    if task.operation.phase == "moving":
        refuse_unserved(task)
        began = task.world.clock.monotonic()
        moved, left = await _move(task, colour, first)
        task.enter("keeping", replace(_took(task, "move", began), moved=moved, left=left))
    return await _keep(task, colour)


async def undo(task: Task[Cutover]) -> str:
    """Cancel it: before the switch the idle colour is ended; after it everything goes back to the old one.

    Raise CannotUndo if the old colour is not kept and was stopped already, or does not serve and the new one does.
    """
    colour = task.work.colour
    old, ready = other(colour), set[str]()
    if task.want().live == colour:
        if task.want().record.colours.get(old, ColourRecord()).stopped:
            await stop(task, [i.name for i in task.want().of(old)])
            raise CannotUndo(f"{_words(task, colour)}; {old} was stopped already")
        ready = await ready_of(task, old)
        if not ready and any(i.takes and task.serves(i.name) for i in task.want().of(colour)):
            task.change(lambda record: record.with_colour_kept(old, _until(task, task.work.keep)))
            raise CannotUndo(f"{_words(task, colour)}: no instance of {old} is ready", code=Exit.FAILED)
        release = task.work.config_release_before
        task.change(lambda record: replace(record, live=old, config_release=release))
    task.change(lambda record: replace(record, canary=0))
    await task.point(ready=ready)
    want = task.want()
    there = [i for i in want.of(colour) if i.program is not None]
    words = f"{old} serves"
    pids = await task.world.daemons.pids()
    alive = [i for i in there if i.name in pids]
    if any(task.serves(name) for name in task.holding(i.name for i in alive)):
        task.change(lambda record: record.with_colour_kept(colour, _until(task, 0)))
        return _goes_on(colour)
    if not await task.cannot_hand_off(alive, [i for i in want.of(old) if i.takes]):
        hung = await hanging(task, there)  # to ask them for their connections would only take ten seconds each
        handed = await hand_over(task, [(i, heirs(task, i)) for i in there if i.name not in hung])
        words += f"; {handed.words()}" if handed.moved or handed.left else ""
        hung = await hanging(task, there)
        left = await task.connections(i for i in there if i.name not in hung)
        if hung:
            words += f"; {', '.join(hung)} did not answer and lost what had moved there"
        if any(left.values()):  # never dropped: they end by themselves, then the colour is stopped
            task.change(lambda record: record.with_colour_kept(colour, _until(task, 0)))
            return f"{words}; they stay with {colour} until they end"
    else:
        policy = policy_of(want.service.drain)
        if policy.closes:
            words += f"; connections of {colour}: {(await let_end(task, there, policy)).words()}"
        elif any((await task.connections(there)).values()):
            task.change(lambda record: record.with_colour_kept(colour, _until(task, 0)))
            return f"{words}; connections of {colour} stay with it until they end"
    before, asked, ran = task.work.before, task.work.asked, want.record.colours.get(colour)
    names = [i.name for i in want.of(colour)]
    task.enter("stopping", owned=names)
    task.change(lambda record: record.with_colour_as_before(colour, before).asking_before(asked))
    try:
        await stop(task, names)
    except OperationFailed:  # supervisord has just started them again
        kept = replace(ran or ColourRecord(), keep_until=_until(task, 0))
        task.change(lambda record: record.with_colour(colour, kept))
        return _goes_on(colour)
    return words


def _goes_on(colour: Colour) -> str:
    """Return the outcome of an undo that leaves ``colour`` running, as its instances alone serve."""
    return f"no instance of {other(colour)} serves: {colour} goes on until one does, then it is stopped"


def heirs(task: Task[Cutover], instance: DesiredInstance) -> list[DesiredInstance]:
    """Return who of the other colour gets the connections of ``instance``: its counterpart, or all if that is drained.

    Nobody where all of that colour are drained, in maintenance or out.
    """
    mine = instance.instance
    others = [i for i in task.want().instances if i.instance.colour not in (None, mine.colour)]
    there = [i for i in others if i.takes and task.serves(i.name)]
    return [i for i in there if i.instance.number == mine.number] or there


async def _start(task: Task[Cutover], colour: Colour) -> None:
    most = task.want().service.instances
    names = [i.name for i in task.want().of(colour) if i.startable and i.instance.number <= most]
    task.enter("begin", owned=names)
    if task.work.fresh:
        await stop(task, names)
    task.progress(0, len(names), f"starting {quantity(len(names), 'instance')} of {colour}")
    failed = await task.start(names)
    if failed:
        name, reason = next(iter(failed.items()))
        why = f"{name}: {reason}{last_signs(task.world.paths, name)}"
        raise OperationFailed(
            f"{len(failed)} of {quantity(len(names), 'instance')} of the new release did not become ready, "
            f"nothing changed for clients; {why}",
            code=Exit.TIMEOUT,
        )


async def _can_take(task: Task[Cutover], colour: Colour) -> bool:
    """Return whether the new release can take over connections by hand-off, which could not be told before it ran."""
    olds, news = ([i for i in task.want().of(one) if i.program is not None] for one in (other(colour), colour))
    senders = [i for i in olds if i.takes]
    for _ in range(_ASKED):
        if not (why := await task.cannot_hand_off(senders, news)):
            return True
        await task.pause(_AGAIN)
    if task.work.insist:
        raise OperationFailed(f"nothing changed for clients: {why}", code=Exit.USAGE)
    task.world.log("no-handoff", service=task.operation.service, reason=why)
    return False


async def _canary(task: Task[Cutover], colour: Colour) -> None:
    plan = task.work.canary
    if plan is None:
        return
    for number in range(task.work.step, len(plan.steps)):
        percent = plan.steps[number]
        task.enter("canary", replace(task.work, step=number))
        task.change(partial(_canary_at, percent=percent))
        await task.point(ready=[i.name for i in task.want().of(colour)])
        if task.work.handoff:
            await canary.take_share(task, colour, percent=percent)
        if fault := await canary.watch(task, colour, percent=percent, plan=plan):
            raise OperationFailed(f"the canary was rolled back at {percent} %: {fault}")


async def _move(task: Task[Cutover], colour: Colour, first: int) -> tuple[str, int]:
    """Empty the old colour: by hand-off member to member, else by the service's drain policy.

    ``first`` connections were handed over already.
    """
    want = task.want()
    olds = [i for i in want.of(other(colour)) if i.program is not None]
    if task.work.handoff:
        return await _hand_off(task, [(old, heirs(task, old)) for old in olds], first)
    old, policy = other(colour), policy_of(want.service.drain)
    if not policy.closes:
        staying = sum((await task.connections(olds)).values())
        return (
            f"{quantity(staying, 'connection', 'stays')} with {old} until closed"
            if staying
            else f"{old} had no connections"
        ), 0
    return f"connections of {old}: {(await let_end(task, olds, policy)).words()}", 0


async def _hand_off(task: Task[Cutover], pairs: Pairs, first: int) -> tuple[str, int]:
    receivers = list({new.name: new for _, news in pairs for new in news}.values())
    await refuse_hanging(task, receivers)
    handed: HandoffResult = await hand_over(task, pairs)
    handed = replace(handed, moved=handed.moved + first)
    if handed.left:
        await refuse_hanging(task, receivers)
    return handed.words(), handed.left


async def _keep(task: Task[Cutover], colour: Colour) -> str:
    old, keep, left = other(colour), task.work.keep, task.work.left
    refuse_unserved(task)
    want = task.want()
    words = f"{_words(task, colour)}; {task.work.moved}"
    if left:
        task.change(lambda record: record.with_colour_kept(old, _until(task, keep)))
        raise OperationFailed(f"{words}; those stay with {old} until they end, then it can be stopped", settled=True)
    staying = sum((await task.connections(i for i in want.of(old) if i.program is not None)).values())
    if keep == 0 and not staying:
        names = [i.name for i in want.of(old)]
        task.enter("keeping", owned=names)
        task.change(lambda record: record.with_colour_stopped(old))
        await stop(task, names)
    else:
        task.change(lambda record: record.with_colour_kept(old, _until(task, keep)))
    took = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in task.work.took.items())
    gone = outlived(task.desired().journal, task.want())
    return f"{words} ({took})" + (f"; older than keep_releases, can be removed: {', '.join(gone)}" if gone else "")


def _words(task: Task[Cutover], colour: Colour) -> str:
    release = task.want().release
    return f"{task.want().name} is live on {colour}" + (f", release {release}" if release else "")


def _took(task: Task[Cutover], phase: str, began: float) -> Cutover:
    """Return the work with what ``phase``, which ``began`` then, took."""
    return replace(task.work, took={**task.work.took, phase: round(task.world.clock.monotonic() - began, 3)})


def _canary_at(record: ServiceRecord, *, percent: int) -> ServiceRecord:
    return replace(record, canary=percent)


def _switched(record: ServiceRecord, *, colour: Colour, config_release: str | None) -> ServiceRecord:
    return replace(record, live=colour, canary=0, config_release=config_release)


def _until(task: Task[Cutover], keep: float) -> str:
    """Return the time, RFC 3339, ``keep`` seconds from now."""
    return stamp(task.world.clock.time() + keep)
