"""Closes connections of a service at a rate, jittered so that clients do not come back in step.

A daemon with a control socket is told a rate and closes connections at request boundaries by its own clock; one that
has no `evict` is told to drain at that rate. Of other daemons the kernel destroys the sockets (SOCK_DESTROY), which
their clients see as a reset. That goes by its own clock too, in ticks of about 20 ms: counting what is left takes
longer than a tick, and a slice of 100 ms is 10 % of what a second may have.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence

from portfleet.core.desired import DesiredInstance
from portfleet.daemons.answers import ControlError, Refused
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
        self._task, self._instances = task, instances
        #: Those with a control socket and the others, from when they were first asked.
        self._sides: tuple[list[DesiredInstance], list[DesiredInstance]] | None = None
        self._told: dict[str, float] = {}
        self._rate = 0.0
        self._destroying: asyncio.Task[None] | None = None

    async def evict(self, counts: Mapping[str, int], rate: int) -> None:
        """Evict for a tenth of a second; ``counts`` are the connections each instance has.

        Raises OperationFailed where the kernel does not destroy sockets.
        """
        speaking, others = await self._split()
        total = sum(counts.values())
        for want in speaking:
            share = rate * counts[want.name] / total
            if counts[want.name] and abs(share - self._told.get(want.name, 0.0)) > _APART * share:
                await asyncio.to_thread(self._tell, want, share)
        self._rate = rate * sum(counts[want.name] for want in others) / total
        if others and self._destroying is None:
            self._destroying = asyncio.create_task(self._destroy(others))
        await self._task.pause(_SLICE)
        if self._destroying is not None and self._destroying.done():
            self._destroying.result()

    async def kill(self) -> None:
        """Close everything that is left, at once. A daemon that does not answer is ended, once, which is remembered.

        Raises OperationFailed where the kernel does not destroy sockets.
        """
        speaking, others = await self._split()
        if others:
            await asyncio.to_thread(_destroyed, await asyncio.to_thread(_victims, others))
        for want in speaking:
            self._told[want.name] = 0.0
            killed = self._task.arguments.get("killed", [])
            if not await asyncio.to_thread(self._ask, want, "drain", deadline=0.001) and want.name not in killed:
                await asyncio.to_thread(kill, self._task.paths, want.name)
                self._task.remember(killed=[*killed, want.name])
                self._task.log("killed", instance=want.name, reason="it does not answer")

    async def stop(self) -> None:
        """End the eviction; daemons that were told to evict serve as before."""
        if self._destroying is not None:
            self._destroying.cancel()
        for want in self._instances:
            if want.name in self._told:
                await asyncio.to_thread(self._ask, want, "resume")

    async def _split(self) -> tuple[list[DesiredInstance], list[DesiredInstance]]:
        """Return the instances with a control socket, and those without one or without a process."""
        if self._sides is None:
            heard = await self._task.hear(self._instances)
            speaking = [want for want in self._instances if heard[want.name].speaks]
            self._sides = speaking, [want for want in self._instances if want not in speaking]
        return self._sides

    async def _destroy(self, others: Sequence[DesiredInstance]) -> None:
        jitter = random.Random()  # noqa: S311 (jitter, not a secret)
        victims: list[sockdiag.Socket] = []
        credit, last = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(_TICK * jitter.uniform(0.5, 1.5))
            now = time.monotonic()
            credit, last = min(credit + self._rate * (now - last), max(1.0, self._rate * _CREDIT)), now
            if not victims:  # for about a second; a dump of 20,000 sockets takes as long as a tick
                victims = await asyncio.to_thread(_victims, others)
                jitter.shuffle(victims)
            some, victims = victims[: int(credit)], victims[int(credit) :]
            credit -= _destroyed(some)

    def _tell(self, want: DesiredInstance, rate: float) -> None:
        if self._ask(want, "evict", "drain", rate=rate):
            self._told[want.name] = rate

    def _ask(self, want: DesiredInstance, *commands: str, **arguments: float) -> bool:
        """Give a daemon the first of ``commands`` that it does not refuse; return whether it took one."""
        trouble = "it does not run"
        for command in commands:
            if (place := control_of(want, running(self._task.paths))) is None:
                break
            try:
                ask(place, command, seconds=PATIENCE, **arguments)
            except ControlError as error:
                trouble = str(error)
                if not isinstance(error, Refused):
                    break
            else:
                return True
        self._task.log.once("cannot-evict", about=want.name, instance=want.name, reason=trouble)
        return False


def _victims(instances: Sequence[DesiredInstance]) -> list[sockdiag.Socket]:
    return [one for want in instances for one in sockdiag.of_port(want.rule.port)]


def _destroyed(some: Sequence[sockdiag.Socket]) -> int:
    try:
        return sockdiag.destroy(some)
    except OSError as error:
        raise OperationFailed(f"the kernel does not destroy sockets: {error}") from None
