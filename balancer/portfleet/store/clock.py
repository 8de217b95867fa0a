"""The machine's clocks: monotonic time, and the wall clock's as people and JSON see it (RFC 3339, UTC, seconds)."""

from __future__ import annotations

import time


class Clock:
    """The clocks and waiting, as a value that tests can put another in place of."""

    def monotonic(self) -> float:
        """Return seconds that no change of the wall clock touches."""
        return time.monotonic()

    def time(self) -> float:
        """Return the Unix time."""
        return time.time()

    def now(self) -> str:
        """Return the time now, as in ``2026-01-31T12:03:10Z``."""
        return stamp(self.time())

    def sleep(self, seconds: float) -> None:
        """Wait in this thread."""
        time.sleep(seconds)


def now() -> str:
    """Return the time now, as in ``2026-01-31T12:03:10Z``."""
    return stamp(time.time())


def now_exactly() -> str:
    """Return the time now with milliseconds, as in ``2026-01-31T12:03:10.519Z``."""
    return stamp_exactly(time.time())


def stamp_exactly(seconds: float) -> str:
    """Return a Unix time as RFC 3339 in UTC with milliseconds."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds * 1000) % 1000:03}Z"


def stamp(seconds: float) -> str:
    """Return a Unix time as RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
