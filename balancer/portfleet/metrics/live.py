"""Looks again and again, keeps the history, and tells open pages what has changed (server-sent events)."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from portfleet.core.errors import PortfleetError
from portfleet.metrics.ask import Entry, ask_events
from portfleet.metrics.history import EVERY, History
from portfleet.metrics.look import Look, Looks
from portfleet.metrics.view import View, differing, view

#: Seconds between two looks while a page is open.
_WATCHED = 2.0
#: Events that a page shows; sparklines sent with one update, so that a thousand instances stay within 20 KB a second.
_EVENTS, _LINES = 50, 24
#: Views that are kept for pages that were loaded a moment ago.
_EARLIER = 4
#: Updates that a page may be behind; one that reads none of so many is told to load anew.
_BEHIND = 8
_STREAM = "event: {}\ndata: {}\n\n"


class Live:
    """The latest view, for whoever opens the page, and streams of what changes."""

    def __init__(self, looks: Looks, socket: Path) -> None:
        self._looks, self._socket = looks, socket
        self._history = History()
        self._noted = 0.0
        self._last, self._turn = 0, 0
        self._sent: dict[str, str] = {}
        self._viewers: set[asyncio.Queue[str]] = set()
        self._wake, self._lock = asyncio.Event(), asyncio.Lock()
        self._taken: Look | None = None
        self._due = 0.0
        self.view = view(Look(time.time(), trouble="the first look is under way"), self._history)
        self._earlier: deque[View] = deque([self.view], maxlen=_EARLIER)
        self.events: deque[Entry] = deque(maxlen=_EVENTS)

    @property
    def viewers(self) -> int:
        """How many streams are open."""
        return len(self._viewers)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            while not self._wake.is_set() and (left := self._due - time.monotonic()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._wake.wait()
            self._wake.clear()

    async def look(self) -> None:
        """Look once, and tell all viewers what has changed."""
        async with self._lock:
            await self._take(await run_in_threadpool(self._looks.now))

    async def scraped(self, look: Look) -> None:
        """Take the look of a scrape instead of one of its own, unless a page is open, for which it looks more often.

        A look older than the last one is left out: a slow scrape may end after a newer one.
        """
        async with self._lock:
            if not self._viewers and (self._taken is None or look.at > self._taken.at):
                await self._take(look)

    async def _take(self, look: Look) -> None:
        self._taken, self._due = look, time.monotonic() + (_WATCHED if self._viewers else EVERY)
        if time.monotonic() - self._noted >= EVERY - 1:
            self._noted = time.monotonic()
            self._history.note(look)
        before, self.view = self.view, view(look, self._history)
        self._earlier.append(self.view)
        news = await run_in_threadpool(self._news)
        self.events.extend(news)
        if not self._viewers:
            return
        if before.structure != self.view.structure:
            self._tell(_STREAM.format("structure", "{}"))
        if patch := self._patch(before):
            self._tell(_STREAM.format("patch", json.dumps(patch, separators=(",", ":"))))
        for event in news:
            self._tell(_STREAM.format("news", json.dumps(shown(event), separators=(",", ":"))))

    async def stream(self, since: str) -> AsyncIterator[str]:
        """Yield what changes from now on, as server-sent events; first what has changed since the view named ``since``.

        A page of a view that is not known any more, or had another structure, is told to load anew.
        """
        queue: asyncio.Queue[str] = asyncio.Queue(_BEHIND)
        self._viewers.add(queue)
        self._wake.set()
        try:
            before = next((one for one in self._earlier if one.name == since), None)
            if before is None or before.structure != self.view.structure:
                yield _STREAM.format("structure", "{}")
            elif cells := differing(before.cells, self.view.cells):
                yield _STREAM.format("patch", json.dumps({"cells": cells}, separators=(",", ":")))
            while True:
                yield await queue.get()
        finally:
            self._viewers.discard(queue)

    def _patch(self, before: View) -> dict[str, dict[str, str]]:
        """Return the cells that have changed, and some of the sparklines in turn."""
        cells = differing(before.cells, self.view.cells)
        names = list(self.view.lines)
        turn = [names[(self._turn + number) % len(names)] for number in range(min(_LINES, len(names)))]
        self._turn = (self._turn + len(turn)) % max(1, len(names))
        lines = differing(self._sent, {name: self.view.lines[name] for name in turn})
        self._sent = {name: line for name, line in (self._sent | lines).items() if name in self.view.lines}
        return {kind: found for kind, found in (("cells", cells), ("lines", lines)) if found}

    def _tell(self, text: str) -> None:
        for queue in self._viewers:
            if not queue.full():
                queue.put_nowait(text)
                continue
            while not queue.empty():  # a reader this slow gets the page anew instead of what it has missed
                queue.get_nowait()
            queue.put_nowait(_STREAM.format("structure", "{}"))

    def _news(self) -> list[Entry]:
        """Return the events that came since the last time; the newest few at first."""
        try:
            found, self._last = ask_events(self._socket, self._last or None)
        except PortfleetError:
            return []
        return found[-_EVENTS:]


def shown(event: Entry) -> Entry:
    """Return what the page shows of an event."""
    return {
        "number": event["number"],
        "time": event["time"][:19].replace("T", " "),
        "level": event.get("level", "info"),
        "words": event["words"],
        "service": event.get("service") or "",
    }
