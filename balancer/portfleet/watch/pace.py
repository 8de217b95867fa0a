"""When everything is looked at again: the more processor time a look takes, the later.

What must be seen at once comes as an event. A look at everything finds what was done past the watcher: with
supervisorctl, say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds from the begin of one look to the next, at least and at most; and how many times the processor time that it
#: took: 0.3 % of a core.
_LEAST, _MOST, _TIMES = 10.0, 60.0, 300.0


class Pace:
    """Times looks by what they cost."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock, self._cpu = clock, cpu
        self._next = self._began = self._spent = 0.0

    @property
    def due(self) -> bool:
        """Return whether it is time for a look."""
        return self._clock() >= self._next

    def hurry(self) -> None:
        """Have the next look be due now, also if one is under way."""
        self._next = 0.0

    def begin(self) -> None:
        """Note that a look begins; if it does not come to its `end` the next one is due in ten seconds."""
        self._began, self._spent = self._clock(), 0.0
        self._next = self._began + _LEAST

    def spend(self, work: Callable[[], T]) -> T:
        """Do a part of a look in any thread, and count the processor time that it takes."""
        began = self._cpu()
        try:
            return work()
        finally:
            self._spent += self._cpu() - began

    def end(self) -> None:
        """Put the next look off by what this one took."""
        if self._next:
            self._next = self._began + min(max(_LEAST, _TIMES * self._spent), _MOST)
