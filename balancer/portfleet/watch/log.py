"""The watcher's log: one line per change of state, key=value or JSON, with the reason."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import IO


class Log:
    """Writes events to ``file``, a line each: time, event, then its fields in the order given."""

    def __init__(self, *, as_json: bool, file: IO[str] | None = None) -> None:
        self._json, self._file = as_json, file or sys.stdout

    def __call__(self, event: str, **fields: object) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._json:
            line = json.dumps({"time": at, "event": event, **fields})
        else:
            line = " ".join([at, event, *(f"{key}={_value(value)}" for key, value in fields.items())])
        print(line, file=self._file, flush=True)


def _value(value: object) -> str:
    text = str(value)
    if text and not any(char in ' "=\\' or ord(char) < 32 for char in text):
        return text
    return json.dumps(text)
