"""The kinds of values that fleet.toml holds: how each is read, named, bounded, written, and told to other programs.

``read`` returns the value, or ``default`` if the key is left out or wrong; the reader notes what is wrong. A schema
(JSON Schema, draft 2020-12) refuses what is wrong by itself; the machine and the other keys it does not see. The kinds
are no dataclasses: making ten of those takes longer than reading a config, and every verb would wait for it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from portfleet.config.reader import Reader, parse_duration, short

Schema = dict[str, Any]

#: A pattern of texts without control characters.
PRINTABLE = r"^[^\u0000-\u001f\u007f]*$"
_DURATION = r"(?=.*[1-9])[0-9]+(\.[0-9]+)?(ms|s|m|h|d)"


class Kind(ABC):
    """One kind of value. ``words`` is its type for people, ``bounds`` its range, "" if the type says it all."""

    words: ClassVar[str]

    @property
    def bounds(self) -> str:
        return ""

    @abstractmethod
    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        """Return the value of ``key`` as core/model holds it; ``example`` is for hints."""

    @abstractmethod
    def schema(self) -> Schema:
        """Return the JSON schema of the value as TOML holds it."""

    def toml(self, value: Any) -> str | None:
        """Return a value of the model as fleet.toml holds it; None for one that only leaving out the key gives."""
        return None if value in (None, (), {}) else json.dumps(value)


class Text(Kind):
    """A string without control characters, not empty."""

    words = "string"
    bounds = "not empty, no control characters"

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        value = reader.get(key, str, "a string", '"…"')
        if value is None:
            return default
        if not value:
            reader.wrong(key, "is empty", "give a value or leave the key out")
            return default
        return value if reader.clean(key, value) else default

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1, "pattern": PRINTABLE}


class Raw(Kind):
    """A string as it is, control characters too: what a probe sends."""

    words = "string"
    bounds = r"any characters, also \n and \r"

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        value = reader.get(key, str, "a string", example)
        return default if value is None else value

    def schema(self) -> Schema:
        return {"type": "string"}


class Number(Kind):
    """A whole number within ``low`` … ``high``."""

    words = "whole number"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    @property
    def bounds(self) -> str:
        return f"{self.low} … {self.high}"

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        value = reader.get(key, int, "a whole number", str(default or self.low))
        if value is None:
            return default
        if not self.low <= value <= self.high:
            hint = f"for example {key} = {default or self.low}"
            reader.wrong(key, f"{short(value)} is not within {self.bounds}", hint)
            return default
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


class Switch(Kind):
    """On or off."""

    words = "boolean"

    @property
    def bounds(self) -> str:
        return "true or false"

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        value = reader.get(key, bool, "true or false", example)
        return default if value is None else value

    def schema(self) -> Schema:
        return {"type": "boolean"}


class Choice(Kind):
    """One word of ``choices``."""

    words = "string"

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.choices = choices

    @property
    def bounds(self) -> str:
        return " or ".join(f'"{choice}"' for choice in self.choices)

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        value = reader.get(key, str, "a string", f'"{default}"')
        if value is None or not reader.clean(key, value):
            return default
        if value not in self.choices:
            reader.wrong(key, f'"{value}" is none of {", ".join(self.choices)}', f"write {self.bounds}")
            return default
        return value

    def schema(self) -> Schema:
        return {"enum": list(self.choices)}


class Duration(Kind):
    """A duration in seconds, longer than nothing; with ``off`` the word "off" too, which is None."""

    words = "duration"

    def __init__(self, *, off: bool = False) -> None:
        self.off = off

    @property
    def bounds(self) -> str:
        return 'above 0, 3650 days at most; or "off"' if self.off else "above 0, 3650 days at most"

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        value = reader.get(key, str, 'a duration such as "30s"', '"30s"')
        if value is None or not reader.clean(key, value):
            return default
        if self.off and value == "off":
            return None
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            reader.wrong(key, str(error), 'write "500ms", "30s", "10m", "1h"' + ' or "off"' * self.off)
            return default
        if seconds <= 0:
            reader.wrong(key, "must be longer than nothing", f'for example {key} = "30s"')
            return default
        return seconds

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^({'off|' * self.off}{_DURATION})$"}

    def toml(self, value: Any) -> str:
        if value is None:
            return '"off"'
        milliseconds = round(value * 1000)
        sizes = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
        unit = next(unit for unit, size in sizes.items() if milliseconds % size == 0)
        return f'"{milliseconds // sizes[unit]}{unit}"'


class Parsed(Kind):
    """A string in a small language of its own: ``parse`` reads it, ``pattern`` is what others may check it by."""

    words = "string"

    def __init__(self, parse: Callable[[str], Any], *, pattern: str, says: str, hint: str) -> None:
        self.parse, self.pattern, self.says, self.hint = parse, pattern, says, hint

    @property
    def bounds(self) -> str:
        return self.says

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        value = reader.get(key, str, "a string", example)
        if value is None or not reader.clean(key, value):
            return default
        try:
            return self.parse(value)
        except ValueError as error:
            reader.wrong(key, str(error), self.hint)
            return default

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^({self.pattern})$"}

    def toml(self, value: Any) -> str:
        return f'"{value}"'
