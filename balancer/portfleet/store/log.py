"""The watcher's log: one line per event, key=value or JSON, with the reason; and what went wrong in it.

What is logged is of a kind in core/kinds: the line is for who reads the log, and the event, unless the kind's level is
"debug", is handed on.

The watcher survives everything that is not its own end, so an exception that was not expected costs what it is about
(an instance, a service, a part of the watcher) and nothing else: it is logged with its traceback, counted, and told by
`status`.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from portfleet.core import events
from portfleet.core.errors import PortfleetError
from portfleet.core.events import Event
from portfleet.core.kinds import KINDS
from portfleet.store.clock import now_exactly


@dataclass(frozen=True)
class Unexpected:
    """Exceptions that were not expected: how many there were, the last one's words and when it came (monotonic)."""

    count: int
    words: str
    at: float


class Log:
    """Writes events to ``file``, a line each: time, kind, then its fields in the order given; then to ``note``.

    supervisord reads the watcher's standard output. When it has died no process does, and a write fails with EPIPE;
    while it hangs, the pipe fills, and a write would block. Then lines go to ``fallback``, the file supervisord keeps
    them in. A full disk costs lines, never the watcher. ``note`` must not wait for anything.
    """

    def __init__(
        self,
        *,
        as_json: bool,
        file: IO[str] | None = None,
        fallback: Path | None = None,
        note: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._json, self._file, self._fallback, self._note = as_json, file, fallback, note
        self._last: dict[str, str] = {}
        #: What went wrong unexpectedly, by what it was about.
        self.troubles: dict[str, Unexpected] = {}

    def __call__(self, kind: str, **fields: object) -> None:
        """Log an event of a ``kind`` in core/kinds; raise KeyError for another."""
        at = now_exactly()
        event = events.make(kind, at, fields)
        if self._json:
            line = json.dumps({"time": at, "event": kind, **fields}, default=str)
        else:
            line = " ".join([at, kind, *(f"{key}={_value(value)}" for key, value in fields.items())])
        try:
            if self._file is not None:
                print(line, file=self._file)
            else:
                _print(line)
        except OSError:
            self._fall_back(line)
        if KINDS[kind].level != "debug":
            self._note(event)

    def once(self, kind: str, *, about: str = "", **fields: object) -> None:
        """Log a trouble that is found at every look only when it is new or its words have changed."""
        words = repr(fields)
        if self._last.get(kind + about) != words:
            self._last[kind + about] = words
            self(kind, **fields)

    def over(self, kind: str, *, about: str = "") -> bool:
        """Forget a trouble given to ``once``; True if there was one."""
        return self._last.pop(kind + about, None) is not None

    def costs(self, about: str) -> Costs:
        """Have an exception in the block cost what it is ``about`` alone: say it and go on after the block."""
        return Costs(self, about)

    def unexpected(self, about: str, error: BaseException) -> None:
        """Count an exception that was not expected, and log it with its traceback when it is a new one."""
        self.count(about, repr(error))
        stack = "".join(traceback.format_exception(error))
        self.once("unexpected-error", about=about, at=about, error=repr(error), traceback=stack)

    def count(self, about: str, words: str) -> None:
        """Count something that went wrong unexpectedly, as `status` tells it."""
        known = self.troubles.get(about)
        self.troubles[about] = Unexpected(known.count + 1 if known else 1, words[:200], time.monotonic())

    def _fall_back(self, line: str) -> None:
        if self._fallback is None:
            return
        try:
            with self._fallback.open("a") as file:
                file.write(line + "\n")
        except OSError:
            return  # the disk is full too: what is not logged is still done


class Costs:
    """The context of `Log.costs`; a class, as the watcher enters it a thousand times a second."""

    __slots__ = ("_about", "_log")

    def __init__(self, log: Log, about: str) -> None:
        self._log, self._about = log, about

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        """Take what ended the block; return whether the program goes on after it."""
        if error is None:
            self._log.over("cannot-look", about=self._about)
        elif isinstance(error, PortfleetError):
            reason = error.message.splitlines()[0]
            self._log.once("cannot-look", about=self._about, at=self._about, reason=reason)
        elif isinstance(error, Exception):  # a defect in one part must not end the others; it is told
            self._log.unexpected(self._about, error)
        else:
            return False
        return True


def _print(line: str) -> None:
    """Write ``line`` to standard output; raise OSError if that would wait for the reader of a pipe."""
    number = sys.stdout.fileno()
    if stat.S_ISFIFO(os.fstat(number).st_mode):
        os.set_blocking(number, False)
    left = f"{line}\n".encode(errors="replace")
    while left:
        left = left[os.write(number, left) :]


def _value(value: object) -> str:
    text = str(value)
    if text and not any(char in ' "=\\' or ord(char) < 32 for char in text):
        return text
    return json.dumps(text, ensure_ascii=False)
