"""The daemons as operations meet them: what they have, and what is done to their connections, without blocking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from portfleet.core.counters import Counters, add
from portfleet.core.desired import DesiredInstance
from portfleet.core.paths import Paths
from portfleet.daemons import instances
from portfleet.daemons.control import ControlError, ask
from portfleet.daemons.handoff import hand_off
from portfleet.daemons.instances import PATIENCE
from portfleet.linux import sockdiag
from portfleet.linux.sockdiag import Socket
from portfleet.supervise.supervisor import Supervisor


class Daemons(Protocol):
    """What operations ask of daemons. ``wants`` are instances with a process of their own on this box."""

    async def pids(self) -> dict[str, int]:
        """Return {instance: pid} of every instance that has a process; raises PortfleetError without supervisord."""

    async def connections(self, wants: Iterable[DesiredInstance]) -> dict[str, int]:
        """Return how many established connections each instance has."""

    async def waiting(self, wants: Iterable[DesiredInstance]) -> int:
        """Return how many connections wait in the accept queues and in SYN_RECV of the instances' ports."""

    async def counters(self, wants: Iterable[DesiredInstance]) -> Counters:
        """Sum what the instances count; one that does not tell, or hangs, counts nothing."""

    async def silent(self, wants: Iterable[DesiredInstance]) -> list[str]:
        """Return those that do not answer on their control sockets; one without a process does not either."""

    async def hand_off(self, sender: DesiredInstance, receiver: DesiredInstance, *, count: int) -> int:
        """Move ``count`` connections and return how many moved; raises HandoffFailed."""

    async def tell(self, want: DesiredInstance, command: str, **arguments: float) -> None:
        """Have a daemon evict, drain or resume (docs/control.md); raises ControlError."""

    async def sockets(self, wants: Iterable[DesiredInstance]) -> list[Socket]:
        """Return the established connections on the instances' ports."""

    async def destroy(self, sockets: Sequence[Socket]) -> int:
        """Reset connections and return how many were still there; raises OSError where the kernel refuses."""


class MachineDaemons:
    """The daemons of this machine."""

    def __init__(self, supervisor: Supervisor, paths: Paths) -> None:
        self._supervisor, self._paths = supervisor, paths

    async def pids(self) -> dict[str, int]:
        return await asyncio.to_thread(instances.running, self._supervisor, self._paths)

    async def connections(self, wants: Iterable[DesiredInstance]) -> dict[str, int]:
        found, pids = list(wants), await self.pids()
        return await asyncio.to_thread(instances.connections, found, pids)

    async def waiting(self, wants: Iterable[DesiredInstance]) -> int:
        queued = await asyncio.to_thread(sockdiag.waiting)
        return sum(queued[want.rule.port] for want in wants)

    async def counters(self, wants: Iterable[DesiredInstance]) -> Counters:
        return await asyncio.to_thread(_counters, list(wants))

    async def silent(self, wants: Iterable[DesiredInstance]) -> list[str]:
        found = list(wants)
        answers = await asyncio.gather(*(asyncio.to_thread(_hangs, want) for want in found))
        return [want.name for want, hangs in zip(found, answers, strict=True) if hangs]

    async def hand_off(self, sender: DesiredInstance, receiver: DesiredInstance, *, count: int) -> int:
        return await hand_off(sender, receiver, count=count)

    async def tell(self, want: DesiredInstance, command: str, **arguments: float) -> None:
        await asyncio.to_thread(ask, want.control, command, seconds=PATIENCE, **arguments)

    async def sockets(self, wants: Iterable[DesiredInstance]) -> list[Socket]:
        found = list(wants)
        return await asyncio.to_thread(lambda: [one for want in found for one in sockdiag.of_port(want.rule.port)])

    async def destroy(self, sockets: Sequence[Socket]) -> int:
        return await asyncio.to_thread(sockdiag.destroy, sockets)


def _counters(wants: list[DesiredInstance]) -> Counters:
    found = []
    for want in wants:
        try:
            found.append(ask(want.control, "status", seconds=1))
        except ControlError:
            continue  # another daemon, or one that is hung: probes tell
    return add(found)


def _hangs(want: DesiredInstance) -> bool:
    try:
        ask(want.control, "status", seconds=PATIENCE)
    except ControlError:
        return True
    return False
