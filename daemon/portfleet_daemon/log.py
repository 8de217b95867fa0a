"""One line per event on stderr: RFC 3339 UTC time, event, key=value fields."""

from __future__ import annotations

import datetime
import json
import os

_STDERR = 2


def log(event: str, **fields: object) -> None:
    """Write one line; values with blanks, quotes or control characters are written as JSON strings.

    A line that cannot be written is lost: stderr is a pipe to supervisord, and when that has died (EPIPE) or the disk
    behind it is full, the daemon goes on serving.
    """
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    words = [stamp, event, *(f"{key}={_word(value)}" for key, value in fields.items())]
    line = " ".join(words) + "\n"
    try:
        os.write(_STDERR, line.encode(errors="backslashreplace"))
    except OSError:
        return


def _word(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(char in text for char in ' "=\\')
    return text if plain else json.dumps(text)
