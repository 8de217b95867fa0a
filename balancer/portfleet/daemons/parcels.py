"""Messages of the hand-off protocol (docs/handoff.md §2), as a process sees them that only passes them on. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct

CONNECTIONS, END, ACK, REFUSE = 2, 3, 16, 17
#: Descriptors that one message may carry.
MOST = 253
_HEADER = Struct(">BBHII")  # type, flags, count, sequence, length of body
_RECORD = Struct(">IIII")  # flags, lengths of partial, unsent, state
_HAS_PEER, _PEER = 4, 19
_LONGEST = 1 << 25


class Improper(Exception):
    """What came is not the hand-off protocol."""


@dataclass(frozen=True)
class Message:
    """One message; ``count`` descriptors come with one of `CONNECTIONS`."""

    kind: int
    count: int
    sequence: int
    body: bytes


def pack(kind: int, *, count: int = 0, sequence: int = 0, body: bytes = b"") -> bytes:
    """Return a message as bytes."""
    return _HEADER.pack(kind, 0, count, sequence, len(body)) + body


class Inbox:
    """Puts messages together from what is read."""

    def __init__(self) -> None:
        self._got = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in what came next."""
        self._got += data

    def take(self) -> Message | None:
        """Return the next complete message; raise Improper for what is none."""
        if len(self._got) < _HEADER.size:
            return None
        kind, _, count, sequence, length = _HEADER.unpack_from(self._got)
        if length > _LONGEST or count > MOST:
            raise Improper(f"a message of type {kind} with {count} descriptors and {length} bytes")
        if len(self._got) < _HEADER.size + length:
            return None
        body = bytes(self._got[_HEADER.size : _HEADER.size + length])
        del self._got[: _HEADER.size + length]
        return Message(kind, count, sequence, body)


def records(body: bytes, count: int) -> list[bytes]:
    """Return the ``count`` records of a body, each as bytes; raise Improper unless they fill it exactly."""
    found = list(_records(body, count))
    if sum(map(len, found)) != len(body):
        raise Improper("records that do not fill their message")
    return found


def _records(body: bytes, count: int) -> Iterator[bytes]:
    at = 0
    for _ in range(count):
        if len(body) - at < _RECORD.size:
            raise Improper("a record that is cut off")
        flags, *lengths = _RECORD.unpack_from(body, at)
        end = at + _RECORD.size + sum(lengths) + _PEER * bool(flags & _HAS_PEER)
        if end > len(body):
            raise Improper("a record longer than its message")
        yield body[at:end]
        at = end


def chosen(found: Sequence[bytes], places: Collection[int]) -> bytes:
    """Return the body of the records at ``places``."""
    return b"".join(record for place, record in enumerate(found) if place in places)


def with_unsent(record: bytes, data: bytes) -> bytes:
    """Return a record with ``data`` to be sent before what it has to send."""
    flags, partial, unsent, state = _RECORD.unpack_from(record)
    at = _RECORD.size + partial
    return _RECORD.pack(flags, partial, unsent + len(data), state) + record[_RECORD.size : at] + data + record[at:]
