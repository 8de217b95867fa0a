"""Closes connections of a service at a rate, jittered so that clients do not come back in step.

Our daemon is told a rate once and closes connections at request boundaries by its own clock; of other daemons the
kernel destroys the sockets (SOCK_DESTROY), slice by slice, which their clients see as a reset.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence

from portfleet import sockdiag
from portfleet.control import ControlError, ask
from portfleet.desired import InstanceWant
from portfleet.operate.task import Task

_SLICE = 0.1
#: A daemon is told a new rate when its share of the service's differs by more than this.
_APART = 0.1


class Evictor:
    """Evicts connections of ``instances``, whose common rate is shared in proportion to what each has."""

    def __init__(self, task: Task, instances: Sequence[InstanceWant]) -> None:
        self._task = task
        self._ours = [want for want in instances if want.ours]
        self._others = [want for want in instances if not want.ours]
        self._told: dict[str, float] = {}
        self._jitter = random.Random()  # noqa: S311 (jitter, not a secret)
        self._owed, self._last = 0.0, time.monotonic()

    async def evict(self, counts: Mapping[str, int], rate: int) -> None:
        """Evict one slice of time, about a tenth of a second; ``counts`` are the connections each instance has."""
        total = sum(counts.values())
        for want in self._ours:
            share = rate * counts[want.name] / total
            if counts[want.name] and abs(share - self._told.get(want.name, 0.0)) > _APART * share:
                await asyncio.to_thread(self._tell, want, share)
        await self._task.pause(_SLICE * self._jitter.uniform(0.7, 1.3))
        now = time.monotonic()
        # After a long pause (a busy machine) half a second is made up for at most: the rate holds in every window.
        self._owed = min(self._owed + (now - self._last) * rate, max(rate / 2, 1.0))
        self._last = now
        for want in self._others:
            share = min(round(self._owed * counts[want.name] / total), counts[want.name])
            if share > 0:
                self._owed -= await asyncio.to_thread(sockdiag.destroy, want.rule.port, share)

    def kill(self) -> None:
        """Close everything that is left, at once."""
        for want in self._others:
            sockdiag.destroy(want.rule.port)
        for want in self._ours:
            self._told[want.name] = 0.0
            self._ask(want, "drain", deadline=0.001)

    def stop(self) -> None:
        """End what our daemons were told, so that they serve as before."""
        for want in self._ours:
            if want.name in self._told:
                self._ask(want, "resume")

    def _tell(self, want: InstanceWant, rate: float) -> None:
        if self._ask(want, "evict", rate=rate):
            self._told[want.name] = rate

    def _ask(self, want: InstanceWant, command: str, **arguments: float) -> bool:
        try:
            ask(want.control, command, seconds=2, **arguments)
        except ControlError as error:
            self._task.log.once("cannot-evict", about=want.name, instance=want.name, reason=str(error))
            return False
        return True
