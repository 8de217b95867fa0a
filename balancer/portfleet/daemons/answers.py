"""The answers on control sockets, from bytes to checked values: the only place that reads what an instance says.

An instance may run as another user, be hostile, or be a first attempt at docs/control.md. So an answer is a claim: a
line of at most 64 KiB, known keys of the right type and range, everything else ignored. Whatever is not that is the one
outcome `ImproperAnswer`, whose text is short and prints. No input raises anything but ControlError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from portfleet.core.printable import printable
from portfleet.core.status import DaemonState, Status
from portfleet.core.value import value

#: The longest line of an answer in bytes (docs/control.md).
LONGEST = 65_536
#: The largest count: all whole numbers up to it survive a JSON reader that knows only floats (RFC 8259, section 6).
MOST = 1 << 53
_STATES = {state.value: state for state in DaemonState}
#: Buckets of a latency histogram, and versions of the hand-off protocol, that are believed.
_BUCKETS, _VERSIONS = 1024, 64


class ControlError(Exception):
    """No answer, an improper one, or a refusal; the text is short and prints."""


class ImproperAnswer(ControlError):
    """What came is no answer of docs/control.md."""


class Refused(ControlError):
    """A proper answer that says no, in the daemon's words."""


class HandoffRefused(Refused):
    """The last line of a hand-off that ended early; ``moved`` connections are with the receiver.

    ``code`` says why in a word of docs/control.md, "" if none was given.
    """

    def __init__(self, words: str, moved: int, code: str) -> None:
        super().__init__(words)
        self.moved, self.code = moved, code


@value
class Agreed:
    """What a receiver agrees to: the ``version`` of the hand-off protocol, and how many connections it has room for."""

    version: int
    room: int


def read_status(line: bytes) -> Status:
    """Read the answer to ``status``; raises ControlError."""
    answer = _accepted(_object(line))
    said = answer.get("state")
    state = _STATES.get(said) if isinstance(said, str) else None
    if state is None:
        _improper("state", said)
    bounds, counts = _latency(answer["latency"]) if "latency" in answer else ((), ())
    return Status(
        state,
        _count(answer, "connections"),
        _count(answer, "max_connections", 0),
        _versions(answer, "handoff", []),
        _count(answer, "accepted") if "accepted" in answer else None,
        _count(answer, "requests") if "requests" in answer else None,
        _count(answer, "errors") if "errors" in answer else None,
        _count(answer, "keepalive_s") if "keepalive_s" in answer else None,
        bounds,
        counts,
        _count(answer, "bytes_in") if "bytes_in" in answer else None,
        _count(answer, "bytes_out") if "bytes_out" in answer else None,
    )


def read_done(line: bytes) -> None:
    """Read an answer of which nothing counts but that it is a yes; raises ControlError."""
    _accepted(_object(line))


def read_progress(line: bytes) -> tuple[int, bool]:
    """Read a line that follows ``handoff``: how many moved so far, and if it is the last; raises ControlError."""
    answer = _object(line)
    if answer.get("ok") is False:
        raise HandoffRefused(_words(answer), _count(answer, "moved", 0), _code(answer))
    event = _accepted(answer).get("event")
    if event not in ("progress", "done"):
        _improper("event", event)
    return _count(answer, "moved"), event == "done"


def read_hello(line: bytes) -> dict[str, Any]:
    """Read the line by which a sender opens a hand-off (docs/handoff.md §1), to pass it on; raises ControlError."""
    hello = _object(line)
    if hello.get("command") != "receive":
        _improper("command", hello.get("command"))
    _versions(hello, "versions")
    return hello


def read_agreed(line: bytes) -> Agreed:
    """Read a receiver's answer to that line; raises ControlError."""
    return agreed(_object(line))


def agreed(answer: dict[str, Any]) -> Agreed:
    """Return the same of an answer that another box has passed on; raises ControlError."""
    answer = _accepted(answer)
    return Agreed(_count(answer, "version"), _count(answer, "room"))


def can_take(line: bytes) -> bool:
    """Read what `relocate check` says on another box: whether its instance takes connections; raises ControlError."""
    return bool(_versions(_accepted(_object(line.rstrip(b"\n"))), "handoff"))


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST:
        raise ImproperAnswer(f"it answers with more than {LONGEST:,} bytes")
    text, found, end = "", None, 0
    # ValueError is of bytes that are not UTF-8, and of numbers of over 4,300 digits, too.
    with suppress(ValueError, RecursionError):
        text = line.decode().strip(" \t\r\n")
        found, end = _JSON.raw_decode(text)
    if not isinstance(found, dict) or end != len(text):
        raise ImproperAnswer(f"it does not answer properly: {_shown(line)} is no JSON object")
    return found


def _accepted(answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("ok") is False:
        raise Refused(_words(answer))
    if answer.get("ok") is not True:
        _improper("ok", answer.get("ok"))
    return answer


def _words(answer: Mapping[str, Any]) -> str:
    error = answer.get("error")
    if not isinstance(error, str):
        _improper("error", error)
    return printable(error).strip() or "it refuses without a word"  # "" would be the verdict of what has ended well


def _code(answer: Mapping[str, Any]) -> str:
    code = answer.get("code", "")
    if not isinstance(code, str):
        _improper("code", code)
    return code


def _count(answer: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Read a whole number of 0 … `MOST`, which may be left out if there is a ``default``."""
    value = answer.get(key, default)
    if type(value) is not int or not 0 <= value <= MOST:  # type, as True is an int to isinstance
        _improper(key, value)
    return value


def _versions(answer: Mapping[str, Any], key: str, default: list[int] | None = None) -> frozenset[int]:
    value = answer.get(key, default)
    if not isinstance(value, list) or len(value) > _VERSIONS:
        _improper(key, value)
    for one in value:
        if type(one) is not int or not 0 <= one <= MOST:
            _improper(key, value)
    return frozenset(value)


def _latency(value: object) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Read a histogram as its bounds and counts."""
    bounds, counts = (value.get("bounds_us"), value.get("counts")) if isinstance(value, dict) else (None, None)
    if not isinstance(bounds, list) or not isinstance(counts, list):
        _improper("latency", value)
    # By whole lists, as the watcher reads a thousand of these a second.
    if len(bounds) > _BUCKETS or len(counts) != len(bounds) + 1 or {*map(type, bounds)} - {int, float}:
        _improper("latency", value)
    ascend = sorted(bounds) == bounds and len({*bounds}) == len(bounds)  # `_JSON` reads no NaN
    within = not bounds or (bounds[0] >= 0 and bounds[-1] <= MOST)
    if not ascend or not within or {*map(type, counts)} != {int} or min(counts) < 0 or max(counts) > MOST:
        _improper("latency", value)
    return tuple(bounds), tuple(counts)


def _improper(key: str, value: object) -> NoReturn:
    kinds = {type(None): "missing", list: "not such a list", dict: "not such an object"}
    shown = kinds.get(type(value)) or printable(repr(value), 80)
    raise ImproperAnswer(f"it does not answer properly: {key} is {shown}")


def _shown(line: bytes) -> str:
    return repr(line[:80]) + ("…" if len(line) > 80 else "")
