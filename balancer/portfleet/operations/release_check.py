"""Whether a release serves: it is tried with one connection each before it gets slots, and looked at after that."""

from __future__ import annotations

from collections.abc import Iterable

from portfleet.core.desired import DesiredInstance
from portfleet.core.model import Colour, other
from portfleet.core.states import Presence
from portfleet.core.status import DaemonState
from portfleet.core.work.cutover import Cutover
from portfleet.daemons.capability import Heard
from portfleet.operations.empty import Order, spread
from portfleet.operations.task import OperationFailed, Task
from portfleet.supervise.exit_report import last_signs

#: Seconds for the first connections that were handed off to ask something, and between looks whether they did.
_TASTE, _LOOK = 0.3, 0.05


async def taste(task: Task[Cutover], colour: Colour) -> int:
    """Hand one connection of each old instance to its successor; return how many moved.

    Those that hang on their first request are met with here, before they get slots; raises OperationFailed.
    """
    want = task.want()
    news = [i for i in want.of(colour) if i.program is not None]
    olds = [i for i in want.of(other(colour)) if i.program is not None]
    counts, before = await task.connections(olds), await task.world.daemons.hear(news)
    orders = [Order(old, [_successor(old, news)], 1) for old in olds if counts[old.name]]
    moved, _, _ = await spread(task, orders)
    tasting = [new for order in orders for new in order.receivers]
    waited = 0.0
    while moved and waited < _TASTE:
        await task.pause(_LOOK)
        waited += _LOOK
        now = await task.world.daemons.hear(tasting)
        if all(_answered(before[name], one) for name, one in now.items()):
            break
    await refuse_hanging(task, tasting)
    return moved


async def hanging(task: Task[Cutover], instances: list[DesiredInstance]) -> list[str]:
    """Return those that have a process and do not answer."""
    there = await task.world.daemons.pids()
    return await _silent(task, (i for i in instances if i.name in there))


async def refuse_hanging(task: Task[Cutover], news: list[DesiredInstance]) -> None:
    """Raise OperationFailed if one of ``news`` does not answer, or has ended."""
    silent, there = await _silent(task, news), await task.world.daemons.pids()
    if ended := [name for name in silent if name not in there]:
        signs = last_signs(task.world.paths, ended[0])
        raise OperationFailed(f"rolled back: {', '.join(ended)} of the new release does not run{signs}")
    if silent:
        raise OperationFailed(f"rolled back: {', '.join(silent)} of the new release does not answer")


def refuse_unserved(task: Task[Cutover]) -> None:
    """Raise OperationFailed if all instances of the release are out: their slots stay where they are then."""
    takers, out = [i.name for i in task.want().of(task.work.colour) if i.takes], task.world.ejector.out
    if takers and out.keys() >= set(takers):
        why = f"{takers[0]}: {out[takers[0]].reason}{last_signs(task.world.paths, takers[0])}"
        raise OperationFailed(f"rolled back: no instance of the new release serves any more; {why}")


async def ready_of(task: Task[Cutover], colour: Colour) -> set[str]:
    """Return the instances of a colour that are ready, or were told to drain; all while supervisord does not answer."""
    names = [i.name for i in task.want().of(colour)]
    seen = await task.world.in_thread(task.world.observe, task.desired(), names)
    if seen.supervisord is not Presence.RUNNING:
        return set(names)
    found = {name: seen.seen(name) for name in names}
    return {
        name
        for name, one in found.items()
        if one.ready or (one.status is not None and one.status.state is DaemonState.DRAINING)
    }


async def _silent(task: Task[Cutover], instances: Iterable[DesiredInstance]) -> list[str]:
    """Return those that do not answer; one without a process does not either."""
    return [name for name, heard in (await task.world.daemons.hear(instances)).items() if heard.status is None]


def _successor(old: DesiredInstance, news: list[DesiredInstance]) -> DesiredInstance:
    return next((new for new in news if new.instance.number == old.instance.number), news[0])


def _answered(before: Heard, now: Heard) -> bool:
    """Return whether an instance has answered a request since, or does not answer at all."""
    if before.status is None or now.status is None:
        return True
    return (now.status.requests or 0) > (before.status.requests or 0)
