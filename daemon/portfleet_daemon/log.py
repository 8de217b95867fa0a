"""One line per event on stderr: RFC 3339 UTC time, event, key=value fields."""

from __future__ import annotations

import datetime
import json
import sys


def log(event: str, **fields: object) -> None:
    """Write one line; values with blanks, quotes or control characters are written as JSON strings."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    words = [stamp, event, *(f"{key}={_word(value)}" for key, value in fields.items())]
    sys.stderr.write(" ".join(words) + "\n")
    sys.stderr.flush()


def _word(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(char in text for char in ' "=\\')
    return text if plain else json.dumps(text)
