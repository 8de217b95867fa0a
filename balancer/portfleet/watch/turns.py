"""Whose turn it is to be probed, and when: those due within a moment together, new ones spread over their interval."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from math import ceil, inf

#: Probes begin together, each so many seconds (for short intervals more often), for what this process is woken for
#: costs it as much as some probes do.
_BEAT = 0.04


class Turns:
    """The turns of instances by name."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, str]] = []
        self._queued: set[str] = set()

    def add(self, intervals: Mapping[str, float], now: float) -> None:
        """Have all of ``intervals`` in the queue, which are seconds by instance; who is there keeps its turn."""
        fresh = [name for name in intervals if name not in self._queued]
        for number, name in enumerate(fresh):
            interval = intervals[name]
            self.put(name, now + interval * number / len(fresh), interval)

    def put(self, name: str, moment: float, interval: float) -> None:
        """Have it be an instance's turn at ``moment``, with others."""
        beat = min(_BEAT, interval / 8)
        heapq.heappush(self._queue, (ceil(moment / beat - 1e-6) * beat, name))
        self._queued.add(name)

    def take(self, now: float) -> tuple[str, float] | None:
        """Return whose turn is longest due, and since when; it is to be put back, or dropped."""
        if not self._queue or self._queue[0][0] > now:
            return None
        due, name = heapq.heappop(self._queue)
        return name, due

    def drop(self, name: str) -> None:
        """Forget an instance whose turn was taken."""
        self._queued.discard(name)

    def left(self, now: float) -> float:
        """Return the seconds until the next turn, inf if there is none."""
        return self._queue[0][0] - now if self._queue else inf
