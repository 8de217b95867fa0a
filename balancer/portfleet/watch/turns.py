"""Whose turn it is to be probed, and when: those due within a moment together, new ones spread over their interval."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from math import ceil, inf

#: Probes begin together, each so many seconds (for short intervals more often), for what this process is woken for
#: costs it as much as some probes do.
_BEAT = 0.04
#: Stands for the moment of a turn that was taken and not put back yet.
_TAKEN = -inf


class Turns:
    """The turns of instances by name."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, str]] = []
        #: By instance, when its turn is; an entry of the queue that says otherwise has been overtaken.
        self._due: dict[str, float] = {}

    def add(self, intervals: Mapping[str, float], now: float) -> None:
        """Have all of ``intervals`` in the queue, which are seconds by instance; who is there keeps its turn."""
        fresh = [name for name in intervals if name not in self._due]
        for number, name in enumerate(fresh):
            interval = intervals[name]
            self.put(name, now + interval * number / len(fresh), interval)

    def put(self, name: str, moment: float, interval: float) -> None:
        """Have it be an instance's turn at ``moment``, with others, and not when it was to be before."""
        beat = min(_BEAT, interval / 8)
        due = self._due[name] = ceil(moment / beat - 1e-6) * beat
        heapq.heappush(self._queue, (due, name))

    def take(self, now: float) -> tuple[str, float] | None:
        """Return whose turn is longest due, and since when; it is to be put back, or dropped."""
        if self.left(now) > 0:
            return None
        due, name = heapq.heappop(self._queue)
        self._due[name] = _TAKEN
        return name, due

    def drop(self, name: str) -> None:
        """Forget an instance whose turn was taken."""
        self._due.pop(name, None)

    def left(self, now: float) -> float:
        """Return the seconds until the next turn, inf if there is none."""
        while self._queue and self._due.get(self._queue[0][1]) != self._queue[0][0]:
            heapq.heappop(self._queue)
        return self._queue[0][0] - now if self._queue else inf
