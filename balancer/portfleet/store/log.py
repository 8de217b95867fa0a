"""The watcher's log: one line per change of state, key=value or JSON, with the reason."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO


class Log:
    """Writes events to ``file``, a line each: time, event, then its fields in the order given.

    supervisord reads the watcher's standard output. When it has died nobody does, and a write fails with EPIPE: from
    then on lines go to ``fallback``, the file supervisord kept them in. A full disk costs lines, never the watcher.
    """

    def __init__(self, *, as_json: bool, file: IO[str] | None = None, fallback: Path | None = None) -> None:
        self._json, self._file, self._fallback = as_json, file or sys.stdout, fallback
        self._last: dict[str, str] = {}

    def __call__(self, event: str, **fields: object) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._json:
            line = json.dumps({"time": at, "event": event, **fields})
        else:
            line = " ".join([at, event, *(f"{key}={_value(value)}" for key, value in fields.items())])
        try:
            print(line, file=self._file, flush=True)
        except OSError:
            self._fall_back(line)

    def once(self, event: str, *, about: str = "", **fields: object) -> None:
        """Log a trouble that is found at every look only when it is new or its words have changed."""
        words = repr(fields)
        if self._last.get(event + about) != words:
            self._last[event + about] = words
            self(event, **fields)

    def over(self, event: str, *, about: str = "") -> bool:
        """Forget a trouble given to ``once``; True where there was one."""
        return self._last.pop(event + about, None) is not None

    def _fall_back(self, line: str) -> None:
        if self._fallback is None:
            return
        try:
            with self._fallback.open("a") as file:
                file.write(line + "\n")
        except OSError:
            return  # the disk is full too: what is not logged is still done


def _value(value: object) -> str:
    text = str(value)
    if text and not any(char in ' "=\\' or ord(char) < 32 for char in text):
        return text
    return json.dumps(text, ensure_ascii=False)
