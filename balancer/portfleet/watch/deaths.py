"""A pidfd per instance: the kernel tells of a death within 0.3 ms, where supervisord may take 1–2 s.

A pid can be re-used between reading it and opening its pidfd, so the process's start time is compared after opening.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from portfleet.linux.processes import start_time

#: Clock ticks a second, in which the kernel counts start times.
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Watched:
    """A process that is watched: its pid, when it started (clock ticks since boot) and its pidfd."""

    pid: int
    started: int
    pidfd: int


class Deaths:
    """Watches processes by name and calls ``died(name, pid)`` in the loop as soon as one has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, died: Callable[[str, int], None]) -> None:
        self._loop, self._died = loop, died
        self._watched: dict[str, Watched] = {}
        self._pids: dict[str, int] = {}
        #: How long, in seconds, the process lived that ended last, by name.
        self.lived: dict[str, float] = {}

    @property
    def pids(self) -> Mapping[str, int]:
        """Return {name: pid} of the processes watched, as a view that follows every change."""
        return self._pids

    def alive(self) -> dict[str, int]:
        """Return {name: pid} of every process watched that has not ended, be that told or not."""
        ended = _ended(watched.pidfd for watched in self._watched.values())
        return {name: watched.pid for name, watched in self._watched.items() if watched.pidfd not in ended}

    def watch(self, name: str, pid: int) -> bool:
        """Watch ``pid`` as ``name``; False if it has ended. Another one's end that was not told yet is told before."""
        if self._pids.get(name) == pid:
            return True
        before = self._watched.get(name)
        if before is not None and _ended([before.pidfd]):
            self._ended(name, before.pid)
        self.forget(name)
        started = start_time(pid)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        if started is None or start_time(pid) != started:
            os.close(pidfd)
            return False
        self._watched[name], self._pids[name] = Watched(pid, started, pidfd), pid
        self._loop.add_reader(pidfd, self._ended, name, pid)
        return True

    def forget(self, name: str) -> None:
        """Stop watching ``name``."""
        watched = self._watched.pop(name, None)
        if watched is not None:
            del self._pids[name]
            self._loop.remove_reader(watched.pidfd)
            os.close(watched.pidfd)

    def kill(self, name: str) -> bool:
        """Send SIGKILL to the process watched under ``name``, and surely to no other; False if there is none."""
        watched = self._watched.get(name)
        if watched is None:
            return False
        try:
            signal.pidfd_send_signal(watched.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def started(self) -> dict[str, tuple[int, int]]:
        """Return {name: (pid, start time)} of every process watched."""
        return {name: (watched.pid, watched.started) for name, watched in self._watched.items()}

    def _ended(self, name: str, pid: int) -> None:
        if watched := self._watched.get(name):
            self.lived[name] = time.clock_gettime(time.CLOCK_BOOTTIME) - watched.started / _TICKS
        self.forget(name)
        self._died(name, pid)


def _ended(pidfds: Iterable[int]) -> set[int]:
    """Return those of ``pidfds`` whose process has ended."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    return {pidfd for pidfd, _ in poll.poll(0)}
