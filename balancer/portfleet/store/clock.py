"""Wall-clock time as people and JSON see it: RFC 3339, UTC, whole seconds."""

from __future__ import annotations

import time


def now() -> str:
    """Return the time now, as in ``2026-01-31T12:03:10Z``."""
    return stamp(time.time())


def stamp(seconds: float) -> str:
    """Return a Unix time as RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
