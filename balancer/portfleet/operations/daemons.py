"""The daemons as operations meet them: what they have, and what is done to their connections, without blocking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Protocol

from portfleet.core.desired import DesiredInstance
from portfleet.core.model import Service
from portfleet.core.paths import Paths
from portfleet.daemons import instances
from portfleet.daemons.answers import ControlError, Refused
from portfleet.daemons.capability import Heard
from portfleet.daemons.control import ask
from portfleet.daemons.handoff import hand_off
from portfleet.daemons.instances import PATIENCE, control_of
from portfleet.daemons.relocation import Relocated, relocate
from portfleet.dataplane.interface import Connections, Hold
from portfleet.linux import sockdiag
from portfleet.supervise.supervisor import Supervisor


class Daemons(Protocol):
    """What operations ask of daemons. ``wants`` are instances with a process of their own on this box."""

    async def pids(self) -> dict[str, int]:
        """Return {instance: pid} of every instance that has a process; raises PortfleetError without supervisord."""

    async def hear(self, wants: Iterable[DesiredInstance]) -> dict[str, Heard]:
        """Return what each instance says of itself, or why it says nothing."""

    async def connections(self, service: Service, wants: Iterable[DesiredInstance]) -> dict[str, int]:
        """Return how many established connections each instance of ``service`` has."""

    async def waiting(self, wants: Iterable[DesiredInstance]) -> int:
        """Return how many connections wait in the accept queues and in SYN_RECV of the instances' ports."""

    async def hand_off(self, sender: DesiredInstance, receiver: DesiredInstance, *, count: int) -> int:
        """Move ``count`` connections and return how many moved; raises HandoffFailed."""

    def relocate(self, sender: DesiredInstance, box: str, *, count: int, ssh: str) -> AsyncGenerator[Relocated, None]:
        """Move ``count`` connections to another box (`daemons.relocation`); yield how far it is."""

    async def tell(self, want: DesiredInstance, *commands: str, **arguments: float) -> None:
        """Give a daemon the first of ``commands`` (docs/control.md) that it does not refuse; raises ControlError."""

    async def holds(self, wants: Iterable[DesiredInstance]) -> list[Hold]:
        """Return the established connections of the instances, by the data plane's word."""

    async def end(self, holds: Sequence[Hold]) -> int:
        """Close connections and return how many were still there; raises PortfleetError if that is refused."""


class MachineDaemons:
    """The daemons of this machine."""

    def __init__(self, supervisor: Supervisor, paths: Paths, connections: Connections) -> None:
        self._supervisor, self._paths, self._connections = supervisor, paths, connections

    async def pids(self) -> dict[str, int]:
        return await asyncio.to_thread(instances.running, self._supervisor, self._paths)

    async def hear(self, wants: Iterable[DesiredInstance]) -> dict[str, Heard]:
        found, pids = list(wants), await self.pids()
        return await asyncio.to_thread(instances.hear, found, pids)

    async def connections(self, service: Service, wants: Iterable[DesiredInstance]) -> dict[str, int]:
        found, pids = list(wants), await self.pids()
        return await asyncio.to_thread(instances.connections, service, found, pids)

    async def waiting(self, wants: Iterable[DesiredInstance]) -> int:
        queued = await asyncio.to_thread(sockdiag.waiting)
        return sum(queued[want.rule.port] for want in wants)

    async def hand_off(self, sender: DesiredInstance, receiver: DesiredInstance, *, count: int) -> int:
        return await hand_off(sender, receiver, pids=await self.pids(), count=count)

    def relocate(self, sender: DesiredInstance, box: str, *, count: int, ssh: str) -> AsyncGenerator[Relocated, None]:
        return relocate(sender, box, count=count, ssh=ssh, paths=self._paths)

    async def tell(self, want: DesiredInstance, *commands: str, **arguments: float) -> None:
        place = control_of(want, await self.pids())
        if place is None:
            raise ControlError(f"{want.name} does not run")
        refused: Refused | None = None
        for command in commands:
            try:
                await asyncio.to_thread(ask, place, command, seconds=PATIENCE, **arguments)
            except Refused as error:
                refused = refused or error
            else:
                return
        if refused is not None:
            raise refused

    async def holds(self, wants: Iterable[DesiredInstance]) -> list[Hold]:
        found = list(wants)
        return await asyncio.to_thread(lambda: [one for want in found for one in self._connections.of(want.rule)])

    async def end(self, holds: Sequence[Hold]) -> int:
        return await asyncio.to_thread(self._connections.end, holds)
