"""Exceptions of handlers: each place is logged once with its traceback, all are counted."""

from __future__ import annotations

import traceback

from portfleet_daemon.log import log
from portfleet_daemon.stats import Stats

Place = tuple[str, str, int]  # the exception's type, and the file and line that raised it

PLACES = 1000  # places remembered; a handler that makes up new ones for ever must not fill the memory or the log


class Failures:
    """Notes what handlers raise."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._places: set[Place] = set()

    def note(self, error: Exception) -> None:
        """Count `error`; log it if nothing of its type was raised at its line before.

        An exception that comes from another process says its place there by an attribute `place`.
        """
        self._stats.errors += 1
        place = getattr(error, "place", None) or place_of(error)
        if place in self._places or len(self._places) >= PLACES:
            return
        self._places.add(place)
        log("handler-failed", error=repr(error), traceback="".join(traceback.format_exception(error)))


def place_of(error: Exception) -> Place:
    """Return where `error` was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    return (type(error).__name__, frame[0].filename, frame[0].lineno or 0) if frame else (str(error), "", 0)
