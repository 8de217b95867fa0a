"""Exceptions of handlers: each place is logged once with its traceback, all are counted."""

from __future__ import annotations

import traceback

from portfleet_daemon.log import log
from portfleet_daemon.stats import Stats

PLACES = 1000  # places remembered; a handler that makes up new ones for ever must not fill the memory or the log


class Failures:
    """Notes what handlers raise."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._places: set[tuple[str, str, int]] = set()

    def note(self, error: Exception) -> None:
        """Count `error`; log it if nothing of its type was raised at its line before."""
        self._stats.errors += 1
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        place = (type(error).__name__, frame[0].filename, frame[0].lineno or 0) if frame else (str(error), "", 0)
        if place in self._places or len(self._places) >= PLACES:
            return
        self._places.add(place)
        log("handler-failed", error=repr(error), traceback="".join(traceback.format_exception(error)))
