"""Emptying instances: their connections handed to others, evicted at a rate, or let finish. Used by every verb.

Connections may still come after the slots have left: SYNs that were under way, and those waiting in the accept queue.
So an instance counts as empty when it was found without connections twice, 200 ms apart.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence

from portfleet import sockdiag
from portfleet.control import ControlError, ask
from portfleet.desired import InstanceWant
from portfleet.kernel.conntrack import Connection, set_marks
from portfleet.operate.handoff import HandoffFailed, Tuples, hand_off
from portfleet.operate.task import OperationFailed, Task

_SETTLE = 0.2
_EVICT_EVERY = 0.1

#: Who hands its connections to whom, in even shares.
Pairs = Sequence[tuple[InstanceWant, Sequence[InstanceWant]]]


async def hand_over(task: Task, pairs: Pairs) -> int:
    """Hand all connections of each sender to its receivers until none arrives any more; gives the number.

    Raises OperationFailed where nobody takes them; they stay with the sender, nothing is lost.
    """
    senders = [sender for sender, _ in pairs]
    total, empty = 0, 0
    while empty < 2:
        counts = await task.connections(senders)
        left = sum(counts.values())
        task.progress(total, total + left, "handing off")
        empty = empty + 1 if left == 0 else 0
        for sender, receivers in pairs:
            if counts[sender.name]:
                total += await _spread(sender, receivers, counts[sender.name])
        await task.pause(_SETTLE if left == 0 else 0)
    return total


async def _spread(sender: InstanceWant, receivers: Sequence[InstanceWant], count: int) -> int:
    total = 0
    for number, receiver in enumerate(receivers):
        share = None if number == len(receivers) - 1 else count // len(receivers)
        if share != 0:
            total += await move_some(sender, receiver, share)
    if not receivers:
        raise OperationFailed(f"nobody can take the connections of {sender.name}")
    return total


async def move_some(sender: InstanceWant, receiver: InstanceWant, count: int | None) -> int:
    """Hand ``count`` connections (None: all) to another instance; raises OperationFailed with the daemon's words.

    After each acknowledged batch the connections' conntrack mark is set to the receiver's: whose a connection is can
    never be told by its port again, for a handed-off connection keeps its local port.
    """

    def moved(tuples: Tuples) -> None:
        set_marks({Connection(peer, port, local, to): receiver.rule.mark for local, to, peer, port in tuples})

    try:
        return await hand_off(sender, receiver, count=count, moved=moved)
    except HandoffFailed as failure:
        raise OperationFailed(f"hand-off failed, the rest stayed where it was: {failure}") from None


async def let_end(
    task: Task, instances: Sequence[InstanceWant], *, rate: int | None, deadline: float | None, then: str
) -> int:
    """Wait until ``instances`` have no connections, evicting ``rate`` a second (None: let them finish).

    ``deadline`` seconds from now ``then`` says how it goes on: "wait", "evict" (at the service's rate) or "kill" (all
    at once). The rate is per service, shared by the instances. Gives how many connections ended.
    """
    began, empty = time.monotonic(), 0
    before = sum((await task.connections(instances)).values())
    evictor = Evictor(task, instances)
    while empty < 2:
        counts = await task.connections(instances)
        left = sum(counts.values())
        task.progress(max(0, before - left), before, f"evicting {rate:,}/s" if rate else "letting them finish")
        empty = empty + 1 if left == 0 else 0
        if left and deadline is not None and time.monotonic() - began >= deadline:
            task.log("deadline", service=task.operation.service, left=left, then=then)
            deadline = None
            rate = {"kill": left * 1000, "evict": task.want().service.drain.rate}.get(then, rate)
        if left and rate:
            await evictor.evict(counts, rate)
        else:
            await task.pause(_SETTLE)
    return before


class Evictor:
    """Closes connections of a service at a rate, in slices with jitter so that clients do not come back in step.

    Our daemon is told how many to close and does so at request boundaries; of other daemons the kernel destroys the
    sockets (SOCK_DESTROY), which their clients see as a reset.
    """

    def __init__(self, task: Task, instances: Sequence[InstanceWant]) -> None:
        self._task, self._instances = task, instances
        self._ours = task.want().service.ours
        self._jitter = random.Random()  # noqa: S311 (jitter, not a secret)
        self._owed, self._last = 0.0, time.monotonic()

    async def evict(self, counts: Mapping[str, int], rate: int) -> None:
        """Evict one slice."""
        await self._task.pause(_EVICT_EVERY * self._jitter.uniform(0.7, 1.3))
        now = time.monotonic()
        # After a long pause (a busy machine) at most half a second is made up for: the rate holds in every window.
        self._owed = min(self._owed + (now - self._last) * rate, max(rate / 2, 1.0))
        self._last = now
        for want in self._instances:
            share = min(round(self._owed * counts[want.name] / max(1, sum(counts.values()))), counts[want.name])
            if share > 0:
                self._owed -= await asyncio.to_thread(self._one, want, share)

    def _one(self, want: InstanceWant, count: int) -> int:
        if not self._ours:
            return sockdiag.destroy(want.rule.port, count)
        try:
            ask(want.control, "evict", rate=count * 20, count=count, seconds=2)
        except ControlError as error:
            self._task.log("cannot-evict", instance=want.name, reason=str(error))
        return count
