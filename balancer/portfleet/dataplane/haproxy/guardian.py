"""The watcher's hold on HAProxy: it looks at times, and at once when one of its processes has ended.

HAProxy tells of no changes, and while a process is away the kernel gives new connections to the others, so that there
is nothing to hold for clients.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from contextlib import suppress

from portfleet.dataplane.haproxy import running
from portfleet.dataplane.haproxy.text import Place
from portfleet.dataplane.interface import Done, Door, Foreign, Hazard, Shortage


class HaproxyGuardian:
    """See `Guardian`. ``place`` is where the processes' sockets are."""

    every = 5.0
    shortage: Shortage | None = None
    due: float | None = None

    def __init__(self, place: Place) -> None:
        self._place = place
        self._ends = select.epoll()
        self._watched: dict[int, int] = {}

    def fileno(self) -> int:
        return self._ends.fileno()

    def read(self) -> list[Foreign]:
        """Return a change for each process that has ended: the next one begins with files that must be right."""
        found = []
        for descriptor, _ in self._ends.poll(0):
            pid = next(pid for pid, watched in self._watched.items() if watched == descriptor)
            os.close(self._watched.pop(pid))
            found.append(Foreign("haproxy", pid))
        return found

    def hold(self, doors: Iterable[Door]) -> None:  # noqa: ARG002 (see above)
        for client in running.clients(self._place):
            pid = int(client.info()["Pid"])
            if pid not in self._watched:
                with suppress(ProcessLookupError):
                    self._watched[pid] = os.pidfd_open(pid)
                    self._ends.register(self._watched[pid], select.EPOLLIN)

    def work(self) -> list[Done]:
        return []

    def hazards(self) -> list[Hazard]:
        return []

    def close(self) -> None:
        for descriptor in self._watched.values():
            os.close(descriptor)
        self._ends.close()
