"""The commands of the control socket as values, and the checked way from a line to one of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from portfleet_daemon.errors import Refused


@dataclass(frozen=True)
class Status:
    """How the daemon is, again each `every` seconds (None: once)."""

    every: float | None = None


@dataclass(frozen=True)
class Brief:
    """What a probe needs to know, at little cost for both sides, again each `every` seconds (None: once)."""

    every: float | None = None


@dataclass(frozen=True, kw_only=True)
class Drain:
    """Enter `draining`; evict at `rate` per second (None: let them finish).

    What is left after `deadline` seconds is closed.
    """

    rate: float | None
    deadline: float | None
    close_listener: bool


@dataclass(frozen=True)
class Resume:
    """Take connections again; stop evicting."""


@dataclass(frozen=True, kw_only=True)
class Evict:
    """Close `count` connections (None: all) at `rate` per second."""

    rate: float
    count: int | None


@dataclass(frozen=True, kw_only=True)
class HandOff:
    """Give `count` connections (None: all), and perhaps the listener, to the daemon whose control socket is `to`.

    `names`: whether progress lines name each connection by its four-tuple.
    """

    to: str
    count: int | None
    listener: bool
    deadline: float
    names: bool


@dataclass(frozen=True, kw_only=True)
class Receive:
    """Take connections over this very socket, by one of `versions` of the hand-off protocol."""

    versions: tuple[int, ...]
    framing: str
    stateful: bool


Command = Status | Brief | Drain | Resume | Evict | HandOff | Receive

KEYS = {
    "status": {"every"},
    "state": {"every"},
    "drain": {"rate", "deadline", "listener"},
    "resume": set[str](),
    "evict": {"rate", "count"},
    "handoff": {"to", "count", "listener", "deadline", "names"},
}
LONGEST_EVERY = 60.0  # seconds: for so long it may go unnoticed that whoever asked is gone
HANDOFF_DEADLINE = 30.0  # seconds for requests in flight to finish


def parse(line: bytes) -> Command:
    """Return the command in one line of JSON; raise Refused."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refused(
            f"not JSON: {str(error)[:200]}", hint='one object per line, such as {"command": "status"}'
        ) from error
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise Refused("no command", hint='one object per line, such as {"command": "status"}')
    name = request.pop("command")
    if name == "receive":  # unknown keys are ignored: a newer sender may say more
        return _receive(request)
    if name not in KEYS:
        raise Refused(f"unknown command {name[:50]!r}", hint=f"one of {', '.join(KEYS)}, receive")
    unknown = sorted(set(request) - KEYS[name])
    if unknown:
        raise Refused(f"{name} has no {unknown[0][:50]!r}", hint=f"keys: {', '.join(sorted(KEYS[name])) or 'none'}")
    if name in ("status", "state"):
        every = _positive(request, "every")
        if every is not None and not 0.01 <= every <= LONGEST_EVERY:
            raise Refused(f"every is {every:g}", hint=f"seconds from one answer to the next, 0.01 to {LONGEST_EVERY:g}")
        return Status(every) if name == "status" else Brief(every)
    if name == "resume":
        return Resume()
    if name == "evict":
        if request.get("rate") is None:
            raise Refused("evict needs rate", hint="connections per second")
        return Evict(rate=_positive(request, "rate") or 1.0, count=_count(request))
    if name == "drain":
        listener = request.get("listener", "keep")
        if listener not in ("close", "keep"):
            raise Refused(f"drain: listener is {str(listener)[:50]!r}", hint="close or keep")
        return Drain(
            rate=_positive(request, "rate"), deadline=_positive(request, "deadline"), close_listener=listener == "close"
        )
    return _handoff(request)


def _handoff(request: dict[str, Any]) -> HandOff:
    to, listener, names = request.get("to"), request.get("listener", False), request.get("names", True)
    if not isinstance(to, str) or not to or "\0" in to:
        raise Refused("handoff needs to", hint="the path of the receiver's control socket")
    if not isinstance(listener, bool):
        raise Refused("handoff: listener is no boolean", hint="true also hands over the listening sockets")
    if not isinstance(names, bool):
        raise Refused("handoff: names is no boolean", hint="false leaves the four-tuples out of the progress lines")
    deadline = _positive(request, "deadline") or HANDOFF_DEADLINE
    return HandOff(to=to, count=_count(request), listener=listener, deadline=deadline, names=names)


def _receive(request: dict[str, Any]) -> Receive:
    versions, framing, stateful = request.get("versions"), request.get("framing"), request.get("stateful", False)
    whole = isinstance(versions, list) and all(type(version) is int for version in versions)
    if not whole or not isinstance(framing, str) or not isinstance(stateful, bool):
        raise Refused("receive: versions, framing and stateful are needed", hint="see docs/handoff.md")
    return Receive(versions=tuple(versions or ()), framing=framing, stateful=stateful)


def _positive(request: dict[str, Any], key: str) -> float | None:
    value = request.get(key)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= 1e6:
        raise Refused(f"{key} is {str(value)[:50]}", hint="a number over 0, at most 1,000,000, or null")
    return float(value)


def _count(request: dict[str, Any]) -> int | None:
    value = request.get("count")
    if value is None:
        return None
    if type(value) is not int or not 0 < value <= 1 << 24:
        raise Refused(f"count is {str(value)[:50]}", hint="a whole number over 0, or null for all")
    return value
