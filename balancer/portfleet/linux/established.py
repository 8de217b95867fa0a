"""Established connections of this network namespace: how many an instance has, by the kernel's own word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cached_property

from portfleet.linux import processes, sockdiag


class Established:
    """One look, shared by all that ask it; the kernel is asked when the first does."""

    @cached_property
    def by_port(self) -> Counter[int]:
        """How many there are by local port."""
        return sockdiag.established()

    @cached_property
    def _ports(self) -> dict[int, int]:
        return sockdiag.established_inodes()

    def of(self, pid: int, port: int, ports: tuple[int, int]) -> int:
        """Return how many connections an instance has: process ``pid`` on ``port``, its service's being ``ports``.

        By its port, which is quick. If none has it, by the descriptors of its processes: connections that were handed
        off to it keep the port they came by, and an instance that owns some must never be taken for empty.
        """
        return self.by_port[port] or self.owned(pid, lambda one: ports[0] <= one <= ports[1])

    def owned(self, pid: int, counts: Callable[[int], bool]) -> int:
        """Return how many connections whose local port ``counts`` are open in ``pid`` and its descendants.

        Those that they made themselves, to a database, say, or that came by a port for metrics are no clients'.
        """
        if not any(map(counts, self.by_port)):
            return 0
        return sum(counts(self._ports.get(inode, 0)) for inode in {*processes.sockets(processes.tree(pid))})
