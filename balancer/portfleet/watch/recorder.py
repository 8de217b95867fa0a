"""Keeps events: the watcher's own go to the file, all of the fleet's stay in memory for whoever asks the socket.

A thread does it, so that neither a slow disk nor another process with the lock keeps the loop from an ejection. What
commands append to the file is found there within half a second.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from portfleet.core.errors import PortfleetError
from portfleet.core.events import Event, make
from portfleet.store import journald
from portfleet.store.clock import now_exactly
from portfleet.store.events import EventFile
from portfleet.store.log import Log
from portfleet.watch.event_command import EventCommand

#: Events kept in memory; those of one answer; and those that wait for the file, of which more are lost.
_MEMORY, _ANSWER, _WAITING = 2000, 200, 10_000
#: Seconds between two looks for what commands have appended, and between two tries to get the lock.
_LOOK = 0.5
#: Seconds that the end of the watcher waits for the last events to be written.
_CLOSE = 2.0


class Recorder:
    """Numbers and keeps events from `start` on. `note` may be called from any thread and waits for nothing."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, EventFile(path)
        self._waiting: deque[Event] = deque(maxlen=_WAITING)
        self._lost = 0
        self._batch: list[Event] = []
        self._wake, self._stopping = threading.Event(), False
        self._kept: deque[Event] = deque(maxlen=_MEMORY)
        self._last = 0
        #: How many events of each kind came since `start`, those of commands among them.
        self.counts: Counter[str] = Counter()
        self._thread: threading.Thread | None = None
        self._journald = journald.sender()

    def start(self, log: Log, command: EventCommand) -> None:
        """Begin to keep what is noted and give it to ``command``; ``log`` hears of a file that cannot be written."""
        self._thread = threading.Thread(target=self._run, args=(log, command), name="events", daemon=True)
        self._thread.start()

    def note(self, event: Event) -> None:
        """Take an event to be kept."""
        self._lost += len(self._waiting) == _WAITING
        self._waiting.append(event)
        self._wake.set()

    def since(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to the command `events`: those after the number ``since``, oldest first, 200 at most.

        Without ``since``, the newest. ``last`` is the number of the newest there is: whoever got less asks again.
        """
        since, kept = request.get("since"), list(self._kept)
        if isinstance(since, int):
            found = [event for event in kept if event.number > since][:_ANSWER]
        else:
            found = kept[-_ANSWER:]
        return {"events": [event.to_json() for event in found], "last": self._last}

    def close(self) -> None:
        """Have what waits written; a disk that hangs costs it."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(2 * _CLOSE)

    def _run(self, log: Log, command: EventCommand) -> None:
        with suppress(OSError):  # which writing meets too
            self._keep(self._file.read(most=_MEMORY))
        while True:
            stopping = self._stopping
            self._wake.clear()
            with log.costs("events"):
                if trouble := self._keep_up(command):
                    log.once("cannot-write", about="events", file=self._path, reason=trouble)
                else:
                    log.over("cannot-write", about="events")
            with log.costs("on_event"):
                command.go_on()
            if stopping:
                command.close(_CLOSE)
                return
            self._wake.wait(_LOOK)

    def _keep_up(self, command: EventCommand) -> str:
        """Write what waits, and take in what others have written; return why the file took nothing, or ""."""
        batch, self._batch = self._batch, []
        batch += [self._waiting.popleft() for _ in range(len(self._waiting))] if not batch else []
        if batch and self._lost:
            lost, self._lost = self._lost, 0
            batch.append(make("events-lost", now_exactly(), {"count": lost}))
        try:
            due = bool(batch) or self._file.waits
            kept, trouble = self._file.exchange(batch) if due else (self._file.news(), None)
        except PortfleetError as error:
            self._batch = batch  # which is tried again
            return error.message.splitlines()[0]
        except OSError as error:
            trouble, kept = error, []
        self._tell(kept, command)
        return trouble.strerror or repr(trouble) if trouble else ""

    def _tell(self, events: list[Event], command: EventCommand) -> None:
        """Keep what has just happened, and pass it on."""
        self._keep(events)
        self.counts.update(event.kind for event in events)
        for event in events:
            command.take(event)
            self._journald(event)

    def _keep(self, events: list[Event]) -> None:
        self._kept.extend(events)
        self._last = max([self._last, *(event.number for event in events)])
