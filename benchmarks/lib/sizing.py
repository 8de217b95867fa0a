"""What a box needs for a number of connections: the formulae of docs/sizing.md, which script/docs writes out.

The constants are rounded up from what script/bench designs measured; it compares them with each run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

SOCKET = 4_000  # bytes of the kernel's memory for the server's end of an idle connection, its epoll entry included
TRACKED = 400  # bytes of its entry in conntrack's table, both directions, rewritten
STATE = 600  # bytes of the daemon: a class as handler takes 400 and what it keeps, a function none
PROCESS = 25e6  # bytes of a daemon without connections
ASKS = 0.1  # requests a second of a connection, the mean of all
CPU = 80e-6  # seconds of CPU for a request at such a rate, the kernel's share included
BUSY = 0.5  # of a processor, so that peaks and the other colour of a release have room
PER_INSTANCE = 15_000  # connections of one daemon; 20,000 descriptors are what systems often allow
UNEVEN = 1.25  # the fullest instance over the mean
OWN = 64  # descriptors that a daemon has for itself
CLOSED = 4  # entries of conntrack's table over connections: closed ones stay for two minutes


@dataclass(frozen=True)
class Sizing:
    """What a service of so many connections needs; memory in bytes, descriptors of one instance."""

    connections: int
    cores: int
    instances: int
    kernel: int
    user: int
    descriptors: int
    conntrack: int
    ports: int


def size(connections: int) -> Sizing:
    """Return what so many established connections need, each of which asks once in ten seconds."""
    cores = ceil(connections * ASKS * CPU / BUSY) + 1  # and one for the kernel, the watcher and the rest
    instances = max(2, cores - 1, ceil(connections / PER_INSTANCE))
    return Sizing(
        connections=connections,
        cores=cores,
        instances=instances,
        kernel=connections * (SOCKET + TRACKED),
        user=round(connections * STATE + 2 * instances * PROCESS),  # both colours run during a release
        descriptors=ceil(connections / instances * UNEVEN) + OWN,
        conntrack=CLOSED * connections,
        ports=2 * instances,
    )


def compared(cell: Mapping[str, Any], connections: int) -> dict[str, tuple[float, float]]:
    """Return {what: (computed, measured)} for one part of script/bench designs, a fleet of our daemon.

    Both ends of a connection were on that machine and are alike: the server's is half of what is not conntrack's.
    """
    memory, instances = cell["memory"], cell["processes"]
    tracked = TRACKED * memory["conntrack"] / connections
    return {
        "kernel, bytes a connection": (SOCKET + TRACKED, (memory["kernel_both_ends"] - tracked) / 2 + tracked),
        "daemon, bytes a connection": (STATE, memory["user"]),
        "daemon without connections, bytes": (PROCESS, memory["process"]),
        "descriptors of the fullest instance": (connections / instances * UNEVEN + OWN, memory["descriptors"]),
        "conntrack entries of established connections": (connections, memory["conntrack"]),
        "CPU of a request, µs": (CPU * 1e6, median(one["design"]["cpu_us"] for one in cell["rounds"])),
    }
