"""How long the answer of a process is waited for: one that waits for a processor itself does not hang.

On a machine with a thousand processes that start, supervisord gets a thousandth of a processor: an answer that takes it
0.1 s comes after a minute. How long it ran and how long it waited for a processor tells that from one that hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

#: How many times as long a process is waited for as one that hangs; then it may be in an endless loop.
_AT_MOST = 10


class Patience:
    """The patience with process ``pid`` (None: it is not known) from now on, of ``seconds`` if it does nothing."""

    def __init__(self, seconds: float, pid: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._pid, self._clock = seconds, pid, clock
        self._began = self._looked = clock()
        self._worked = worked(pid)

    def goes_on(self) -> bool:
        """Return whether to wait as long again: since the last look it worked, or waited to, for half of the time."""
        now, did, before = self._clock(), worked(self._pid), self._worked
        since, self._looked, self._worked = now - self._looked, now, did
        busy = did is not None and before is not None and did - before > since / 2
        return busy and now - self._began < _AT_MOST * self._seconds


def worked(pid: int | None) -> float | None:
    """Return for how many seconds a process's first thread has run or waited for a processor; None if that is not told.

    By /proc/PID/schedstat (Documentation/scheduler/sched-stats.rst), which a kernel without CONFIG_SCHED_INFO has not.
    """
    try:
        ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return (int(ran) + int(waited)) / 1e9
