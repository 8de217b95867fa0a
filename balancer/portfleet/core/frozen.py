"""A TCP connection as it travels to another box: what the kernel has of it, as values and as bytes.

Tuples and a layout of fixed fields, as thousands a second are made, sent and read; what is read is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

#: The largest of an option's int, and of one of keep-alive (net/tcp.h).
_INT, _KEEPALIVE = (1 << 31) - 1, 32767
#: Flags, scales, ports, mss, timestamp, window, first numbers, keep-alive, user time-out, buffers, lengths of queues.
_FIXED = Struct(">BB3HII5III3HIII3I")
_SIX, _SACK, _SCALED, _TIMESTAMPS, _MICROSECONDS, _NODELAY = (1 << bit for bit in range(6))


class Flow(NamedTuple):
    """A connection as its client sees it, and the ``address`` and ``port`` on this box that it was translated to.

    Addresses are bytes. Where it is here does not travel: as it is unpacked, ``address`` is the one that was dialled.
    """

    client: bytes
    client_port: int
    dialled: bytes
    dialled_port: int
    address: bytes
    port: int

    @property
    def family(self) -> int:
        """4 or 6."""
        return 4 if len(self.client) == 4 else 6


class Frozen(NamedTuple):
    """A dumped connection: tcp(7) and TCP_REPAIR of linux/tcp.h name its parts.

    ``receive_first`` and ``send_first`` are the sequence numbers of the first byte in each queue: ``received`` (not
    read yet), and ``sent`` (not acknowledged yet) with ``unsent`` behind it. ``window``: struct tcp_repair_window.
    ``keepalive``: idle, interval and count, None if it is off. Buffers are in bytes, ``user_timeout`` in ms.
    """

    flow: Flow
    mss: int
    sack: bool
    send_scale: int
    receive_scale: int
    scaled: bool
    timestamps: bool
    timestamp: int
    microseconds: bool
    window: tuple[int, ...]
    receive_first: int
    send_first: int
    received: bytes
    sent: bytes
    unsent: bytes
    nodelay: bool
    keepalive: tuple[int, int, int] | None
    user_timeout: int
    send_buffer: int
    receive_buffer: int


def pack(connections: Iterable[Frozen]) -> bytes:
    """Return connections as bytes."""
    return b"".join(map(_packed, connections))


def _packed(one: Frozen) -> bytes:
    flow = one.flow
    flags = (
        _SIX * (flow.family == 6)
        | _SACK * one.sack
        | _SCALED * one.scaled
        | _TIMESTAMPS * one.timestamps
        | _MICROSECONDS * one.microseconds
        | _NODELAY * one.nodelay
    )
    fixed = _FIXED.pack(
        flags, one.send_scale << 4 | one.receive_scale, flow.client_port, flow.dialled_port, flow.port, one.mss,
        one.timestamp, *one.window, one.receive_first, one.send_first, *(one.keepalive or (0, 0, 0)), one.user_timeout,
        one.send_buffer, one.receive_buffer, len(one.received), len(one.sent), len(one.unsent),
    )  # fmt: skip
    return b"".join((fixed, flow.client, flow.dialled, one.received, one.sent, one.unsent))


def unpack(data: bytes) -> list[Frozen]:
    """Return what `pack` was given; raise ValueError for what it does not make, or the kernel's fields cannot hold."""
    found, at = [], 0
    while at < len(data):
        one, at = _unpacked(data, at)
        found.append(one)
    return found


def _unpacked(data: bytes, at: int) -> tuple[Frozen, int]:
    try:
        flags, scales, client_port, dialled_port, port, mss, timestamp, *rest = _FIXED.unpack_from(data, at)
    except StructError:
        raise ValueError("a connection is cut off") from None
    window, (receive_first, send_first), keepalive = tuple(rest[:5]), rest[5:7], rest[7:10]
    user_timeout, send_buffer, receive_buffer, *lengths = rest[10:]
    size = 16 if flags & _SIX else 4
    client, dialled, received, sent, unsent = parts = _parts(data, at + _FIXED.size, (size, size, *lengths))
    if not (client_port and dialled_port and port):
        raise ValueError("a connection has the port 0")
    if max(mss, user_timeout, send_buffer, receive_buffer) > _INT or max(keepalive) > _KEEPALIVE:
        raise ValueError("a connection has an option that no socket has")
    one = Frozen(
        flow=Flow(client, client_port, dialled, dialled_port, dialled, port),
        mss=mss,
        sack=bool(flags & _SACK),
        send_scale=scales >> 4,
        receive_scale=scales & 15,
        scaled=bool(flags & _SCALED),
        timestamps=bool(flags & _TIMESTAMPS),
        timestamp=timestamp,
        microseconds=bool(flags & _MICROSECONDS),
        window=window,
        receive_first=receive_first,
        send_first=send_first,
        received=received,
        sent=sent,
        unsent=unsent,
        nodelay=bool(flags & _NODELAY),
        keepalive=(keepalive[0], keepalive[1], keepalive[2]) if all(keepalive) else None,
        user_timeout=user_timeout,
        send_buffer=send_buffer,
        receive_buffer=receive_buffer,
    )
    return one, at + _FIXED.size + sum(map(len, parts))


def _parts(data: bytes, at: int, lengths: Sequence[int]) -> list[bytes]:
    if sum(lengths) > len(data) - at:
        raise ValueError("a connection is longer than what came")
    parts = []
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    return parts
