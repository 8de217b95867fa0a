"""Readers of single values of fleet.toml: each gives the value or None and notes the problem with path and hint."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from portfleet.core.errors import Problem
from portfleet.core.model import Affinity, Listen

T = TypeVar("T")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_LISTEN = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<v4>[^:\[\]]*)):(?P<port>\d{1,5})")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
#: Control characters would break rules, supervisor's ini files and every terminal that shows them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: Days of the longest duration: far above any that makes sense, far below what clocks and supervisord count to.
_LONGEST = 3650


def parse_duration(text: str) -> float:
    """Return the seconds of ``500ms``, ``30s``, ``10m``, ``1h``, ``2d``; raises ValueError."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(f'not a duration: "{text[:80]}"')
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST * _UNITS["d"]:
        raise ValueError(f"longer than {_LONGEST} days")
    return seconds


def parse_listen(text: str) -> Listen:
    """Read ``:PORT``, ``0.0.0.0:PORT``, ``[::]:PORT`` or one address with a port; raises ValueError."""
    match = _LISTEN.fullmatch(text)
    if not match:
        raise ValueError("not ADDRESS:PORT")
    port = int(match["port"])
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not within 1-65535")
    if match["v6"] is not None:
        six = ipaddress.IPv6Address(match["v6"])
        if six.scope_id is not None:
            raise ValueError("an address with a scope (%) cannot be used")
        return Listen(port, None if six == ipaddress.IPv6Address("::") else str(six), (6,))
    if not match["v4"]:
        return Listen(port, None, (4, 6))
    four = ipaddress.IPv4Address(match["v4"])
    return Listen(port, None if four == ipaddress.IPv4Address("0.0.0.0") else str(four), (4,))


def parse_affinity(text: str) -> Affinity:
    """Read ``source``, ``source/24[/56]``, ``connection``, ``round-robin`` or ``random``; raises ValueError."""
    match = re.fullmatch(r"(source)(?:/(\d{1,3})(?:/(\d{1,3}))?)?|(connection)|(round-robin)|(random)", text)
    if not match:
        raise ValueError(f'not an affinity: "{text}"')
    prefix4, prefix6 = int(match[2] or 32), int(match[3] or 64)
    if not 1 <= prefix4 <= 32 or not 1 <= prefix6 <= 128:
        raise ValueError("prefixes go from 1 to 32 (IPv4) and from 1 to 128 (IPv6)")
    if match[1]:
        return Affinity("source", prefix4, prefix6)
    return Affinity("connection" if match[4] else "round-robin" if match[5] else "random")


def short(number: int) -> str:
    """Return a number for people; Python does not print one of more than 4,300 digits, which TOML can hold as 0xf…."""
    return str(number) if abs(number) < 10**20 else "a number of more than 20 digits"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of ``known`` that ``word`` was probably meant to be; None where none is near."""
    import difflib  # only for a mistake: it costs as much as a config takes to read

    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def key_text(name: str) -> str:
    """Return ``name`` as it stands in a dotted key: quoted unless it is a bare key, so that it prints on one line."""
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)


@dataclass
class Reader:
    """Reads the keys of one TOML table at ``path`` and gathers what is wrong with them in ``problems``."""

    path: str
    table: Mapping[str, Any]
    problems: list[Problem] = field(default_factory=list)
    known: list[str] = field(default_factory=list)

    def wrong(self, key: str, message: str, hint: str = "") -> None:
        """Note a problem of ``key``."""
        self.problems.append(Problem(f"{self.path}.{key}" if key else self.path, message, hint))

    def _get(self, key: str, kind: type[T], word: str, example: str) -> T | None:
        self.known.append(key)
        value = self.table.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.wrong(key, f"must be {word}, not {_show(value)}", f"for example {key} = {example}")
            return None
        return value

    def text(self, key: str, default: T, *, example: str = '"…"') -> str | T:
        """Read a string without control characters."""
        value = self._get(key, str, "a string", example)
        if value is None:
            return default
        if not value:
            self.wrong(key, "is empty", "give a value or leave the key out")
            return default
        return value if self._clean(key, value) else default

    def _clean(self, key: str, value: str) -> bool:
        bad = _CONTROL.search(value)
        if bad:
            self.wrong(key, f"holds the control character {bad[0]!r}", "use printable characters")
        return not bad

    def raw(self, key: str, *, example: str) -> str | None:
        """Read a string as it is, control characters too (what a probe sends)."""
        return self._get(key, str, "a string", example)

    def number(self, key: str, default: int, *, low: int, high: int) -> int:
        """Read a whole number within ``low`` … ``high``."""
        value = self._get(key, int, "a whole number", str(default or low))
        if value is None:
            return default
        if not low <= value <= high:
            self.wrong(key, f"{short(value)} is not within {low} … {high}", f"for example {key} = {default or low}")
            return default
        return value

    def duration(self, key: str, default: float) -> float:
        """Read a duration in seconds, longer than nothing."""
        return self._duration(key, default, off=False) or default

    def duration_or_off(self, key: str) -> float | None:
        """Read a duration in seconds; None for the word "off" and where the key is left out."""
        return self._duration(key, None, off=True)

    def _duration(self, key: str, default: float | None, *, off: bool) -> float | None:
        value = self._get(key, str, 'a duration such as "30s"', '"30s"')
        if value is None:
            return default
        if off and value == "off":
            return None
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            words = str(error) if _DURATION.fullmatch(value) else f'"{value}" is not a duration'
            self.wrong(key, words, 'write "500ms", "30s", "10m", "1h"' + (' or "off"' * off))
            return default
        if seconds <= 0:
            self.wrong(key, "must be longer than nothing", f'for example {key} = "30s"')
            return default
        return seconds

    def choice(self, key: str, default: str, choices: Collection[str]) -> str:
        """Read one of ``choices``."""
        value = self._get(key, str, "a string", f'"{default}"')
        if value is not None and value not in choices:
            hint = "write " + " or ".join(f'"{choice}"' for choice in choices)
            self.wrong(key, f'"{value}" is none of {", ".join(choices)}', hint)
            return default
        return value or default

    def texts(self, key: str, *, example: str) -> tuple[str, ...]:
        """Read a list of strings without control characters; one may be empty, as redis' ``--save ""`` is."""
        value = self._get(key, list, "a list of strings", example)
        if value is None:
            return ()
        for number, item in enumerate(value):
            if not isinstance(item, str):
                self.wrong(f"{key}[{number}]", f"must be a string, not {_show(item)}", f"for example {key} = {example}")
                return ()
            if not self._clean(f"{key}[{number}]", item):
                return ()
        return tuple(value)

    def mapping(self, key: str, kind: type[T], *, word: str, example: str) -> dict[str, T]:
        """Read a table whose values are all of ``kind``."""
        value = self._get(key, dict, "a table", example) or {}
        for name, item in value.items():
            if not isinstance(item, kind) or isinstance(item, bool):
                path, hint = f"{key}.{key_text(name)}", f"for example {key} = {example}"
                self.wrong(path, f"must be {word}, not {_show(item)}", hint)
                return {}
        return dict(value)

    def parsed(self, key: str, parse: Callable[[str], T], default: T, *, hint: str) -> T:
        """Read a string that ``parse`` understands."""
        value = self._get(key, str, "a string", hint)
        if value is None:
            return default
        try:
            return parse(value)
        except ValueError as error:
            self.wrong(key, str(error), hint)
            return default

    def sub(self, key: str) -> Reader:
        """Return a reader for the table ``key`` that notes problems in the same list."""
        value = self._get(key, dict, "a table", "{ }") or {}
        return Reader(f"{self.path}.{key}" if self.path else key, value, self.problems)

    def finish(self) -> None:
        """Note every key that nobody asked for, with the nearest known one."""
        for key in self.table:
            if key not in self.known:
                near = nearest(key, self.known)
                hint = f'did you mean "{near}"?' if near else f"known keys: {', '.join(sorted(self.known))}"
                self.wrong(key_text(key), "unknown key", hint)


def _show(value: object) -> str:
    kinds = {bool: "a boolean", str: "a string", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return kinds.get(type(value), type(value).__name__)
