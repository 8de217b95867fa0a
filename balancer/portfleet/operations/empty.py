"""Emptying instances: their connections handed to others, evicted at a rate, or let finish. Used by every verb.

Connections may still come after the slots have left: SYNs that were under way, cookies that clients have yet to answer,
and those waiting in the accept queue. So an instance counts as empty when it was found without connections, then its
port without any that wait (SYN_RECV, then the accept queue), and then it without connections once more, 200 ms after
its slots left at the earliest. In that order none is missed, as a connection only goes forward from one to the next. A
SYN_RECV whose client never answers would hold that up: it is waited for 3 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portfleet.core.desired import DesiredInstance
from portfleet.core.operations import RATE, Policy
from portfleet.core.printable import quantity
from portfleet.daemons.capability import Heard, cannot_hand_off
from portfleet.daemons.handoff import HandoffFailed
from portfleet.operations.evict import Evictor
from portfleet.operations.task import Task

_SETTLE, _QUEUE = 0.2, 3.0
#: Seconds between two looks at instances that have no connections, at least.
_LOOK = 0.02
#: Seconds after which a hand-off that moves nothing is given up.
_STUCK = 3.0

#: Who hands its connections to whom, in even shares.
Pairs = Sequence[tuple[DesiredInstance, Sequence[DesiredInstance]]]


@dataclass(frozen=True)
class HandoffResult:
    """What came of a hand-off: how many ``moved``, how many are ``left`` with their senders, and ``why``."""

    moved: int
    left: int = 0
    why: str = ""

    def words(self) -> str:
        """Say it to an operator."""
        moved = f"{quantity(self.moved, 'connection', 'was')} handed off"
        if not self.left:
            return moved
        return f"{moved}, {self.left:,} could not be ({self.why})"


@dataclass(frozen=True)
class Ended:
    """What came of connections that were to end: of ``total`` the others than these ended by themselves.

    ``closed``: by the daemon between two requests; ``reset``: by the kernel; ``left``: they are there yet.
    """

    total: int
    closed: int = 0
    reset: int = 0
    left: int = 0

    def words(self) -> str:
        """Say it to an operator."""
        words = f"{max(0, self.total - self.closed - self.reset - self.left):,} ended"
        words += f", {quantity(self.closed, '', 'was')} closed" * bool(self.closed)
        words += f", {quantity(self.reset, '', 'was')} reset" * bool(self.reset)
        return words + f", {quantity(self.left, '', 'is')} left" * bool(self.left)


class QuietCheck:
    """Tells when instances are empty for good; see the top of this file."""

    def __init__(self, task: Task[Any], instances: Sequence[DesiredInstance]) -> None:
        self._task, self._instances = task, instances
        self._due = (task.pointed or task.world.clock.monotonic()) + _SETTLE
        self._since: float | None = None

    async def look(self, left: int) -> bool:
        """Take in that ``left`` connections are there now; True when they have ended for good."""
        now = self._task.world.clock.monotonic()
        if left:
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        if now < self._due:
            return False
        if now - self._since < _QUEUE and await self._task.world.daemons.waiting(self._instances):
            return False
        return not any((await self._task.connections(self._instances)).values())

    @property
    def again(self) -> float:
        """Return the seconds until it is worth another look at instances that have no connections."""
        return min(_SETTLE, max(_LOOK, self._due - self._task.world.clock.monotonic()))


async def hand_over(task: Task[Any], pairs: Pairs) -> HandoffResult:
    """Hand all connections of each sender to its receivers until none arrives any more.

    What no receiver takes (refused, no room, none alive) stays with its sender and is counted as left.
    """
    senders = [sender for sender, _ in pairs]
    total, why, moved_at, settled = 0, "", task.world.clock.monotonic(), QuietCheck(task, senders)
    while True:
        counts = await task.connections(senders)
        left = sum(counts.values())
        task.progress(total, total + left, "handing off")
        if await settled.look(left):
            return HandoffResult(total)
        moved, reason, busy = await spread(task, [Order(*pair, counts[pair[0].name]) for pair in pairs])
        total, why = total + moved, reason or why
        if moved or busy or not left:
            moved_at = task.world.clock.monotonic()
        elif task.world.clock.monotonic() - moved_at > _STUCK:
            return HandoffResult(total, left, why or "requests in flight have not ended")
        await task.pause(0 if moved else _SETTLE if left else settled.again)


@dataclass(frozen=True)
class Order:
    """``count`` connections of ``sender`` that are to go to ``receivers`` in even shares."""

    sender: DesiredInstance
    receivers: Sequence[DesiredInstance]
    count: int


async def spread(task: Task[Any], orders: Iterable[Order]) -> tuple[int, str, bool]:
    """Carry out hand-offs; receivers that are out, not ready or unfit get none.

    Return how many connections moved, why not all ("" for no reason), and whether an earlier hand-off is under way yet.
    """
    due = [order for order in orders if order.count]
    if not due:
        return 0, "", False
    heard = await task.world.daemons.hear({i.name: i for one in due for i in (one.sender, *one.receivers)}.values())
    total, why, busy = 0, "", False
    for order in due:
        moved, reason, under_way = await _give(task, order, heard)
        total, why, busy = total + moved, reason or why, busy or under_way
    return total, why, busy


async def _give(task: Task[Any], order: Order, heard: Mapping[str, Heard]) -> tuple[int, str, bool]:
    sender, receivers, count = order.sender, order.receivers, order.count
    alive = [receiver for receiver in receivers if task.serves(receiver.name)]
    unfit = {one.name: cannot_hand_off([sender.name], [one.name], heard) for one in alive}
    able = [receiver for receiver in alive if not unfit[receiver.name]]
    none = next(iter(unfit.values()), f"no instance can take the connections of {sender.name}")
    total, reason, busy = 0, "" if able else none, False
    for number, receiver in enumerate(able):
        share = count * (number + 1) // len(able) - count * number // len(able)
        if share == 0:
            continue
        try:
            total += await task.world.daemons.hand_off(sender, receiver, count=share)
        except HandoffFailed as failure:
            total, reason, busy = total + failure.moved, str(failure), busy or failure.busy
    return total, reason, busy


async def let_end(
    task: Task[Any], instances: Sequence[DesiredInstance], policy: Policy, *, for_ever: bool = True
) -> Ended:
    """Wait until ``instances`` have no connections, which end by ``policy``; return how they ended.

    Not ``for_ever``: a policy that closes none is followed until its deadline.

    The rate is per service, shared by the instances. A daemon that hangs when all is to be closed is ended.
    """
    rate, deadline = policy.rate, policy.deadline
    began, settled = task.began(f"ending {' '.join(want.name for want in instances)}"), QuietCheck(task, instances)
    counts = await task.connections(instances)
    before = most = sum(counts.values())
    evictor, killing = Evictor(task, instances), False
    evictor.note(counts)
    try:
        while True:
            left = sum(counts.values())
            most = max(most, left)
            task.progress(max(0, most - left), most, f"evicting {rate:,}/s" if rate else "letting them finish")
            if await settled.look(left):
                return Ended(before, evictor.closed, evictor.reset)
            if left and deadline is not None and task.world.clock.monotonic() - began >= deadline:
                task.world.log("deadline", service=task.operation.service, left=left, then=policy.then)
                deadline = None
                killing = policy.then == "kill"
                rate = rate or (task.want().service.drain.rate or RATE if policy.then == "evict" else None)
                if not (for_ever or policy.closes):
                    return Ended(before, left=left)
            if left and killing:
                await evictor.kill()
            await _step(task, evictor, counts, rate=rate, wait=_SETTLE if left else settled.again)
            counts = await task.connections(instances)
            evictor.note(counts)
    finally:
        await evictor.stop()


async def _step(task: Task[Any], evictor: Evictor, counts: Mapping[str, int], *, rate: int | None, wait: float) -> None:
    if rate and sum(counts.values()):
        await evictor.evict(counts, rate)
    else:
        await task.pause(wait)
