"""Closes connections of a service at a rate, jittered so that clients do not come back in step.

A daemon with a control socket is told a rate and closes connections at request boundaries by its own clock; one that
has no `evict` is told to drain at that rate. Those of other daemons the data plane ends (the kernel by SOCK_DESTROY),
which their clients see as a reset. That goes by its own clock too, in ticks of about 20 ms: counting what is left takes
longer than a tick, and a slice of 100 ms is 10 % of what a second may have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from portfleet.core.desired import DesiredInstance
from portfleet.core.errors import PortfleetError
from portfleet.daemons.answers import ControlError
from portfleet.dataplane.interface import Hold
from portfleet.operations.task import OperationFailed, Task
from portfleet.watch.priority import yielding

_SLICE, _TICK = 0.1, 0.02
#: A daemon is told a new rate when its share of the service's differs by more than this.
_APART = 0.1
#: What is made up for after a pause, in seconds of the rate: no window of a second has more than a tenth above it.
_CREDIT = 0.1


class Evictor:
    """Evicts connections of ``instances``, whose common rate is shared in proportion to what each has."""

    def __init__(self, task: Task[Any], instances: Sequence[DesiredInstance]) -> None:
        self._task, self._daemons, self._clock = task, task.world.daemons, task.world.clock
        self._instances = instances
        #: Those with a control socket and the others, from when they were first asked.
        self._sides: tuple[list[DesiredInstance], list[DesiredInstance]] | None = None
        self._told: dict[str, float] = {}
        self._rate = 0.0
        #: How many connections daemons have closed as they were told, and how many the data plane has ended.
        self.closed = self.reset = 0
        self._before: Mapping[str, int] = {}
        self._ending: asyncio.Task[None] | None = None

    async def evict(self, counts: Mapping[str, int], rate: int) -> None:
        """Evict for a tenth of a second; ``counts`` are the connections each instance has.

        Raises OperationFailed if the data plane does not end connections.
        """
        speaking, others = await self._split()
        total = sum(counts.values())
        for want in speaking:
            share = rate * counts[want.name] / total
            apart = abs(share - self._told.get(want.name, 0.0)) > _APART * share
            if counts[want.name] and apart and await self._tell(want, "evict", "drain", rate=share):
                self._told[want.name] = share
        self._rate = rate * sum(counts[want.name] for want in others) / total
        if others and self._ending is None:
            self._ending = asyncio.create_task(yielding(self._end(others)))
        await self._task.pause(_SLICE)
        if self._ending is not None and self._ending.done():
            self._ending.result()

    def note(self, counts: Mapping[str, int]) -> None:
        """Take in what instances have now: what a daemon that was told to evict has no more, it has closed."""
        self.closed += sum(max(0, self._before.get(name, 0) - counts[name]) for name in counts if name in self._told)
        self._before = counts

    async def kill(self) -> None:
        """Close everything that is left, at once. A daemon that does not answer is ended, once, which is remembered.

        Raises OperationFailed if the data plane does not end connections.
        """
        speaking, others = await self._split()
        if others:
            await self._ended(await self._daemons.holds(others))
        for want in speaking:
            self._told[want.name] = 0.0
            killed = self._task.work.killed
            if not await self._tell(want, "drain", deadline=0.001) and want.name not in killed:
                await self._task.world.in_thread(self._task.programs().kill, want.name)
                self._task.remember(replace(self._task.work, killed=(*killed, want.name)))
                self._task.world.log("killed", instance=want.name, reason="it does not answer")

    async def stop(self) -> None:
        """End the eviction; daemons that were told to evict serve as before."""
        if self._ending is not None:
            self._ending.cancel()
        for want in self._instances:
            if want.name in self._told:
                await self._tell(want, "resume")

    async def _split(self) -> tuple[list[DesiredInstance], list[DesiredInstance]]:
        """Return the instances with a control socket, and those without one or without a process."""
        if self._sides is None:
            heard = await self._daemons.hear(self._instances)
            speaking = [want for want in self._instances if heard[want.name].speaks]
            self._sides = speaking, [want for want in self._instances if want not in speaking]
        return self._sides

    async def _end(self, others: Sequence[DesiredInstance]) -> None:
        jitter = self._task.world.random
        victims: list[Hold] = []
        credit, last = 0.0, self._clock.monotonic()
        while True:
            await self._task.world.pause(_TICK * jitter.uniform(0.5, 1.5))
            now = self._clock.monotonic()
            credit, last = min(credit + self._rate * (now - last), max(1.0, self._rate * _CREDIT)), now
            if not victims:  # for about a second; a dump of 20,000 sockets takes as long as a tick
                victims = await self._daemons.holds(others)
                jitter.shuffle(victims)
            some, victims = victims[: int(credit)], victims[int(credit) :]
            if some:
                credit -= await self._ended(some)

    async def _ended(self, some: Sequence[Hold]) -> int:
        try:
            reset = await self._daemons.end(some)
        except PortfleetError as error:
            raise OperationFailed(error.message) from None
        self.reset += reset
        return reset

    async def _tell(self, want: DesiredInstance, *commands: str, **arguments: float) -> bool:
        try:
            await self._daemons.tell(want, *commands, **arguments)
        except ControlError as error:
            self._task.world.log.once("cannot-evict", about=want.name, instance=want.name, reason=str(error))
            return False
        return True
