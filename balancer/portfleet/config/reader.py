"""Reading fleet.toml: the texts that stand for values, and a reader of one table that notes problems by path."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from portfleet.core.errors import Problem
from portfleet.core.model import Affinity, Listen

T = TypeVar("T")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_LISTEN = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<v4>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
_AFFINITY = re.compile(r"(source)(?:/([0-9]{1,3})(?:/([0-9]{1,3}))?)?|(connection)|(round-robin)|(random)")
_PORTS = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_PATH = re.compile(r"/[!-~]*")
_CPUS = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")
_CPU_RANGE = re.compile(r"([0-9]+)-([0-9]+)")
_SIZE = re.compile(r"([1-9][0-9]{0,5})([MG])")
_UMASK = re.compile(r"0?[0-7]{3}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
#: Control characters would break rules, supervisor's ini files and every terminal that shows them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: Days of the longest duration: far above any that makes sense, far below what clocks and supervisord count to.
_LONGEST = 3650
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
#: IPv4-mapped and the deprecated IPv4-compatible addresses (RFC 4291, 2.5.5); "::" and "::1" lie in the second.
_IPV4_IN_IPV6 = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("::/96"))


def parse_duration(text: str) -> float:
    """Return the seconds of ``500ms``, ``30s``, ``10m``, ``1h``, ``2d``; raises ValueError."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(f'"{text[:80]}" is not a duration')
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST * _UNITS["d"]:
        raise ValueError(f"longer than {_LONGEST} days")
    return seconds


def parse_listen(text: str) -> Listen:
    """Read ``:PORT``, ``0.0.0.0:PORT``, ``[::]:PORT`` or one host's address with a port; raises ValueError."""
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
        return Listen(port, _host(six), (6,))
    if not match["v4"]:
        return Listen(port, None, (4, 6))
    return Listen(port, _host(ipaddress.IPv4Address(match["v4"])), (4,))


def _host(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    """Return an address that a host can have as text, None for the wildcard.

    Raises ValueError for one to which no TCP connection can lead: the kernel would take the rule and never match it.
    """
    if int(address) > 1 and any(address in network for network in _IPV4_IN_IPV6):
        raise ValueError("an IPv4 address in the form of IPv6 is in no packet; write it as IPv4")
    if address.is_unspecified:
        return None
    if address.is_multicast:
        raise ValueError("a multicast address takes no TCP connections")
    if address == _BROADCAST:
        raise ValueError("the broadcast address takes no TCP connections")
    if address in _THIS_NETWORK:
        raise ValueError("no host has an address that begins with 0 (RFC 1122, 3.2.1.3)")
    return str(address)


def parse_affinity(text: str) -> Affinity:
    """Read ``source``, ``source/24[/56]``, ``connection``, ``round-robin`` or ``random``; raises ValueError."""
    match = _AFFINITY.fullmatch(text)
    if not match:
        raise ValueError(f'not an affinity: "{text}"')
    prefix4, prefix6 = int(match[2] or 32), int(match[3] or 64)
    if not 1 <= prefix4 <= 32 or not 1 <= prefix6 <= 128:
        raise ValueError("prefixes go from 1 to 32 (IPv4) and from 1 to 128 (IPv6)")
    if match[1]:
        return Affinity("source", prefix4, prefix6)
    return Affinity("connection" if match[4] else "round-robin" if match[5] else "random")


def parse_path(text: str) -> str:
    """Read the path of an HTTP request, with a query if it has one (RFC 9112, 3.2.1); raises ValueError."""
    if not _PATH.fullmatch(text):
        raise ValueError(f'"{text[:80]}" is not a path that begins with / and has no blank')
    return text


def parse_cpus(text: str) -> str:
    """Read numbers of processors and ranges of them, as taskset(1) does; raises ValueError."""
    if not _CPUS.fullmatch(text) or any(int(low) > int(high) for low, high in _CPU_RANGE.findall(text)):
        raise ValueError(f'"{text[:80]}" is not a list of processors')
    return text


def parse_size(text: str) -> int:
    """Return the bytes of ``512M`` or ``2G``; raises ValueError."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f'"{text[:80]}" is not a size')
    return int(match[1]) << {"M": 20, "G": 30}[match[2]]


def parse_umask(text: str) -> str:
    """Read three octal digits, with or without a 0 before them; raises ValueError."""
    if not _UMASK.fullmatch(text):
        raise ValueError(f'"{text[:80]}" is not a umask of three octal digits')
    return text[-3:]


def parse_ports(text: str) -> tuple[int, int]:
    """Read ``LOW-HIGH``, two ports with LOW below HIGH; raises ValueError."""
    match = _PORTS.fullmatch(text)
    if not match or not 1 <= int(match[1]) < int(match[2]) <= 65535:
        raise ValueError(f'"{text}" is not a range of ports LOW-HIGH within 1-65535')
    return int(match[1]), int(match[2])


def short(number: int) -> str:
    """Return a number for people; Python does not print one of more than 4,300 digits, which TOML can hold as 0xf…."""
    return str(number) if abs(number) < 10**20 else "a number of more than 20 digits"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the one of ``known`` that ``word`` was probably meant to be; None if none is near."""
    import difflib  # only for a mistake: it costs as much as a config takes to read

    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def key_text(name: str) -> str:
    """Return ``name`` as it stands in a dotted key: quoted unless it is a bare key, so that it prints on one line."""
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)


class Reader:
    """Reads the keys of one TOML table at ``path`` and gathers what is wrong with them in ``problems``."""

    def __init__(self, path: str, table: Mapping[str, Any], problems: list[Problem]) -> None:
        self.path, self.table, self.problems = path, table, problems
        self.known: list[str] = []

    def wrong(self, key: str, message: str, hint: str = "") -> None:
        """Note a problem of ``key``."""
        self.problems.append(Problem(f"{self.path}.{key}" if key else self.path, message, hint))

    def get(self, key: str, kind: type[T], word: str, example: str) -> T | None:
        """Return the value of ``key``; None if it is left out or, which is noted, of another kind."""
        self.known.append(key)
        value = self.table.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.wrong(key, f"must be {word}, not {show(value)}", f"for example {key} = {example}")
            return None
        return value

    def clean(self, key: str, value: str) -> bool:
        """Return whether ``value`` is without control characters; one is noted."""
        bad = _CONTROL.search(value)
        if bad:
            self.wrong(key, f"holds the control character {bad[0]!r}", "use printable characters")
        return not bad

    def sub(self, key: str) -> Reader:
        """Return a reader for the table ``key`` that notes problems in the same list."""
        value = self.get(key, dict, "a table", "{ }") or {}
        return Reader(f"{self.path}.{key}" if self.path else key, value, self.problems)

    def finish(self) -> None:
        """Note every key that no reader asked for, with the nearest known one."""
        for key in self.table:
            if key not in self.known:
                near = nearest(key, self.known)
                hint = f'did you mean "{near}"?' if near else f"known keys: {', '.join(sorted(self.known))}"
                self.wrong(key_text(key), "unknown key", hint)


def show(value: object) -> str:
    """Return the kind of a TOML value in words."""
    kinds = {bool: "a boolean", str: "a string", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return kinds.get(type(value), type(value).__name__)
