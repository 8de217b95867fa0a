"""Layout of the hand-off protocol, versions 1 and 2, without I/O: docs/handoff.md §2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from portfleet_daemon.proxy import PEER

VERSIONS = (1, 2)
WITH_PEERS = 2  # the first version whose records can name the client
MOST_DESCRIPTORS = 253  # SCM_MAX_FD
LONGEST_BODY = 1 << 25  # bytes, of a message with connections; a receiver holds so much at most
BATCH_BYTES = 1 << 20  # the sender closes a batch whose parcels take more than this
LARGEST_PARCEL = LONGEST_BODY - 2 * BATCH_BYTES  # so it fits behind a batch that is not closed yet
LONGEST_REASON = 4096  # bytes, of a REFUSE; the others have no body
HEADER = Struct(">BBHII")  # type, flags, count, sequence, length of body
RECORD = Struct(">IIII")  # flags, lengths of partial, unsent, state
HAS_STATE, END_OF_FILE, HAS_PEER = 1, 2, 4


class ProtocolError(Exception):
    """The other process does not keep to the protocol."""


class Kind(IntEnum):
    """Types of messages."""

    LISTENERS = 1
    CONNECTIONS = 2
    END = 3
    ACK = 16
    REFUSE = 17


class Parcel(NamedTuple):
    """What goes along with a connection's descriptor; a tuple, as a frozen dataclass takes 1 µs to make."""

    partial: bytes = b""  #: received, not answered
    unsent: bytes = b""  #: replied, not accepted by the kernel
    state: bytes | None = None  #: of the handler
    eof: bool = False  #: the peer has shut down its side, and this was read
    peer: bytes = b""  #: the client, as a proxy in front has named it (proxy.PEER)

    @property
    def bare(self) -> bool:
        """Return whether the connection is at a request boundary, with nothing unsent and no state."""
        return not (self.partial or self.unsent or self.eof) and self.state is None

    def size(self) -> int:
        """Return the bytes it takes in a message."""
        return RECORD.size + len(self.partial) + len(self.unsent) + len(self.state or b"") + len(self.peer)


@dataclass(frozen=True)
class Message:
    """One message as received; `descriptors` are the reader's to close."""

    kind: Kind
    count: int
    sequence: int
    body: bytes
    descriptors: tuple[int, ...]


_LONGEST = {Kind.CONNECTIONS: LONGEST_BODY, Kind.REFUSE: LONGEST_REASON}
NOTHING = Parcel()
_NO_RECORD = bytes(RECORD.size)


def pack(kind: Kind, *, count: int, sequence: int, body: bytes = b"") -> bytes:
    """Return a message as bytes."""
    return HEADER.pack(kind, 0, count, sequence, len(body)) + body


def pack_parcels(parcels: Sequence[Parcel], *, version: int) -> bytes:
    """Return the body of a CONNECTIONS message; version 1 cannot name clients."""
    if parcels.count(NOTHING) == len(parcels):
        return _NO_RECORD * len(parcels)
    return b"".join(_NO_RECORD if parcel is NOTHING else _pack_parcel(parcel, version) for parcel in parcels)


def _pack_parcel(parcel: Parcel, version: int) -> bytes:
    peer = parcel.peer if version >= WITH_PEERS else b""
    flags = HAS_STATE * (parcel.state is not None) | END_OF_FILE * parcel.eof | HAS_PEER * bool(peer)
    state = parcel.state or b""
    header = RECORD.pack(flags, len(parcel.partial), len(parcel.unsent), len(state))
    return header + parcel.partial + parcel.unsent + state + peer


def unpack_parcels(body: bytes, count: int, *, version: int) -> list[Parcel]:
    """Return the `count` records of a body; raise ProtocolError unless they fill it exactly."""
    if body == _NO_RECORD * count:
        return [NOTHING] * count
    parcels, at = [], 0
    for _ in range(count):
        if len(body) - at < RECORD.size:
            raise ProtocolError("a record is cut off")
        flags, partial, unsent, state = RECORD.unpack_from(body, at)
        at += RECORD.size
        if not (flags or partial or unsent or state):
            parcels.append(NOTHING)
            continue
        named = PEER.size if flags & HAS_PEER and version >= WITH_PEERS else 0
        ends = (at + partial, at + partial + unsent, at + partial + unsent + state)
        if ends[2] + named > len(body):
            raise ProtocolError("a record is longer than its message")
        parcels.append(
            Parcel(
                partial=body[at : ends[0]],
                unsent=body[ends[0] : ends[1]],
                state=body[ends[1] : ends[2]] if flags & HAS_STATE else None,
                eof=bool(flags & END_OF_FILE),
                peer=_peer(body[ends[2] : ends[2] + named]),
            )
        )
        at = ends[2] + named
    if at != len(body):
        raise ProtocolError("bytes behind the last record")
    return parcels


def _peer(peer: bytes) -> bytes:
    if peer and peer[0] not in (4, 6):
        raise ProtocolError(f"a client of address family {peer[0]}")
    return peer


class Inbox:
    """Puts messages together from what recvmsg returns."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    def feed(self, data: bytes, descriptors: Sequence[int] = ()) -> Iterator[Message]:
        """Yield the messages that `data` completes; raise ProtocolError at the first that is wrong."""
        self._buffer += data
        self._descriptors.extend(descriptors)
        while len(self._buffer) >= HEADER.size:
            number, _, count, sequence, length = HEADER.unpack_from(self._buffer)
            try:
                kind = Kind(number)
            except ValueError:
                raise ProtocolError(f"unknown type {number}") from None
            if length > _LONGEST.get(kind, 0) or count > MOST_DESCRIPTORS:
                raise ProtocolError(f"{kind.name} of {length} bytes with {count} descriptors")
            if len(self._buffer) < HEADER.size + length:
                return
            body = bytes(self._buffer[HEADER.size : HEADER.size + length])
            del self._buffer[: HEADER.size + length]
            carries = count if kind in (Kind.LISTENERS, Kind.CONNECTIONS) else 0
            if carries > len(self._descriptors):
                raise ProtocolError(f"{count} descriptors announced, {len(self._descriptors)} came")
            taken = tuple(self._descriptors[:carries])
            del self._descriptors[:carries]
            yield Message(kind, count, sequence, body, taken)

    def leftover(self) -> list[int]:
        """Return the descriptors of no complete message, for closing, and empty the inbox."""
        left = self._descriptors.copy()
        self._descriptors.clear()
        self._buffer.clear()
        return left
