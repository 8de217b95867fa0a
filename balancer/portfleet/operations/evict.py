"""Closes connections of a service at a rate, jittered so that clients do not come back in step.

Our daemon is told a rate and closes connections at request boundaries by its own clock; of other daemons the kernel
destroys the sockets (SOCK_DESTROY), which their clients see as a reset. That goes by its own clock too, in ticks of
about 20 ms: counting what is left takes longer than a tick, and a slice of 100 ms is 10 % of what a second may have.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence

from portfleet.core.desired import DesiredInstance
from portfleet.daemons.answers import ControlError
from portfleet.daemons.control import ask
from portfleet.daemons.instances import PATIENCE, control_of
from portfleet.linux import sockdiag
from portfleet.operations.task import OperationFailed, Task, kill, running

_SLICE, _TICK = 0.1, 0.02
#: A daemon is told a new rate when its share of the service's differs by more than this.
_APART = 0.1
#: What is made up for after a pause, in seconds of the rate: no window of a second has more than a tenth above it.
_CREDIT = 0.1


class Evictor:
    """Evicts connections of ``instances``, whose common rate is shared in proportion to what each has."""

    def __init__(self, task: Task, instances: Sequence[DesiredInstance]) -> None:
        self._task = task
        self._ours = [want for want in instances if want.ours]
        self._others = [want for want in instances if not want.ours]
        self._told: dict[str, float] = {}
        self._rate = 0.0
        self._destroying: asyncio.Task[None] | None = None

    async def evict(self, counts: Mapping[str, int], rate: int) -> None:
        """Evict for a tenth of a second; ``counts`` are the connections each instance has.

        Raises OperationFailed where the kernel does not destroy sockets.
        """
        total = sum(counts.values())
        for want in self._ours:
            share = rate * counts[want.name] / total
            if counts[want.name] and abs(share - self._told.get(want.name, 0.0)) > _APART * share:
                await asyncio.to_thread(self._tell, want, share)
        self._rate = rate * sum(counts[want.name] for want in self._others) / total
        if self._others and self._destroying is None:
            self._destroying = asyncio.create_task(self._destroy())
        await self._task.pause(_SLICE)
        if self._destroying is not None and self._destroying.done():
            self._destroying.result()

    async def kill(self) -> None:
        """Close everything that is left, at once. One of ours that does not answer is ended, once, which is remembered.

        Raises OperationFailed where the kernel does not destroy sockets.
        """
        if self._others:
            await asyncio.to_thread(_destroyed, await asyncio.to_thread(self._victims))
        for want in self._ours:
            self._told[want.name] = 0.0
            killed = self._task.arguments.get("killed", [])
            if not await asyncio.to_thread(self._ask, want, "drain", deadline=0.001) and want.name not in killed:
                await asyncio.to_thread(kill, self._task.paths, want.name)
                self._task.remember(killed=[*killed, want.name])
                self._task.log("killed", instance=want.name, reason="it does not answer")

    async def stop(self) -> None:
        """End the eviction; our daemons serve as before."""
        if self._destroying is not None:
            self._destroying.cancel()
        for want in self._ours:
            if want.name in self._told:
                await asyncio.to_thread(self._ask, want, "resume")

    async def _destroy(self) -> None:
        jitter = random.Random()  # noqa: S311 (jitter, not a secret)
        victims: list[sockdiag.Socket] = []
        credit, last = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(_TICK * jitter.uniform(0.5, 1.5))
            now = time.monotonic()
            credit, last = min(credit + self._rate * (now - last), max(1.0, self._rate * _CREDIT)), now
            if not victims:  # for about a second; a dump of 20,000 sockets takes as long as a tick
                victims = await asyncio.to_thread(self._victims)
                jitter.shuffle(victims)
            some, victims = victims[: int(credit)], victims[int(credit) :]
            credit -= _destroyed(some)

    def _victims(self) -> list[sockdiag.Socket]:
        return [one for want in self._others for one in sockdiag.of_port(want.rule.port)]

    def _tell(self, want: DesiredInstance, rate: float) -> None:
        if self._ask(want, "evict", rate=rate):
            self._told[want.name] = rate

    def _ask(self, want: DesiredInstance, command: str, **arguments: float) -> bool:
        try:
            if (place := control_of(want, running(self._task.paths))) is None:
                raise ControlError("it does not run")
            ask(place, command, seconds=PATIENCE, **arguments)
        except ControlError as error:
            self._task.log.once("cannot-evict", about=want.name, instance=want.name, reason=str(error))
            return False
        return True


def _destroyed(some: Sequence[sockdiag.Socket]) -> int:
    try:
        return sockdiag.destroy(some)
    except OSError as error:
        raise OperationFailed(f"the kernel does not destroy sockets: {error}") from None
