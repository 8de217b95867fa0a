"""Exceptions of handlers: each place is logged once with its traceback, all are counted.

A handler's exception is foreign code too: its repr(), str(), notes or attributes may raise, or return megabytes.
"""

from __future__ import annotations

import traceback

from portfleet_daemon.log import log
from portfleet_daemon.stats import Stats

Place = tuple[str, str, int]  # the exception's type, and the file and line that raised it

PLACES = 1000  # places remembered; a handler that makes up new ones for ever must not fill the memory or the log
LONGEST = 16384  # characters of an exception's repr() or traceback in the log
UNKNOWN: Place = ("an exception that cannot be looked at", "", 0)


class WorkerError(Exception):
    """What the handler raised in a worker, with its traceback as text and its place there, or that the worker died."""

    def __init__(self, text: str, *, place: Place) -> None:
        super().__init__(text)
        self.place = place


class Failures:
    """Notes what handlers raise. No method raises."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._places: set[Place] = set()
        self._escaped: BaseException | None = None

    def note(self, error: BaseException) -> None:
        """Count `error`; log it if nothing of its type was raised at its line before."""
        if error is self._escaped:
            self._escaped = None  # counted when it came through the loop
            return
        self._stats.errors += 1
        place = error.place if isinstance(error, WorkerError) else place_of(error)
        if place in self._places or len(self._places) >= PLACES:
            return
        self._places.add(place)
        log("handler-failed", error=shown(error), traceback=traceback_of(error))

    def escaped(self, error: BaseException) -> None:
        """Note what a handler's task or callback raised through the loop.

        asyncio lets through what asks the process to exit, and tells the connection that awaited the task afterwards.
        """
        self.note(error)
        self._escaped = error


def place_of(error: BaseException) -> Place:
    """Return where `error` was raised."""
    try:
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        kind = type(error).__name__
        return (kind, frame[0].filename, frame[0].lineno or 0) if frame else (f"{kind} {error}"[:LONGEST], "", 0)
    except BaseException:  # noqa: BLE001  see above
        return UNKNOWN


def shown(error: BaseException) -> str:
    """Return repr(error), cut to LONGEST characters, or the exception's type if that raises."""
    try:
        return repr(error)[:LONGEST]
    except BaseException:  # noqa: BLE001  see above
        return object.__repr__(error)


def traceback_of(error: BaseException) -> str:
    """Return the traceback with the exception at its end, the last LONGEST characters of it."""
    try:
        return "".join(traceback.format_exception(error))[-LONGEST:]
    except BaseException:  # noqa: BLE001  see above
        return "it cannot be shown"
