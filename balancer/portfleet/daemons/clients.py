"""Where the connections of one client are: which instance each came by, and whose process has it now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from portfleet.core.desired import DesiredService
from portfleet.dataplane.interface import Address, Connections
from portfleet.linux import processes


@dataclass(frozen=True)
class Held:
    """An established connection from a client's ``port``: the instance that has it, and the one it ``came_by``.

    They differ if it was handed off. ``since``: when it began (Unix time); None if nothing keeps that.
    """

    port: int
    instance: str
    came_by: str
    since: float | None


def held(connections: Connections, want: DesiredService, pids: Mapping[str, int], address: Address) -> list[Held]:
    """Return a client's connections to a service, by port; ``pids`` are the instances' processes.

    Raise PortfleetError if the data plane refuses to tell.
    """
    found = connections.of_client((instance.rule for instance in want.instances), address)
    inodes = {one.inode for one in found if one.inode is not None}
    owners: dict[int, str] = {}
    for instance in want.instances if inodes else ():
        if (pid := pids.get(instance.name)) is not None:
            owned = inodes.intersection(processes.sockets(processes.tree(pid)))
            owners |= dict.fromkeys(owned, instance.name)
    held = [Held(one.port, owners.get(one.inode or 0, one.instance), one.instance, one.since) for one in found]
    return sorted(held, key=lambda one: one.port)
