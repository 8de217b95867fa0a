"""Entries of conntrack for connections that another box has moved here, and requests to delete those that left.

Layouts: linux/netfilter/nfnetlink_conntrack.h. Of a request only addresses and ports differ, so what is around them is
made once: a batch has 128, and each attribute by itself costs half a microsecond.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from functools import cache

from portfleet.core.frozen import Flow
from portfleet.linux.netlink import REQUEST, attribute, message, nested

_NEW, _DELETE, _CREATE, _EXCLUSIVE = 0x100, 0x102, 0x400, 0x200
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL, _TIMEOUT, _TRANSLATION = 1, 2, 3, 4, 7, 13
#: SEEN_REPLY, ASSURED and CONFIRMED, as `restorer` says.
_KNOWN_WELL = 0x0E
#: SACK_PERM and BE_LIBERAL, as value and mask: no window is known on the new box.
_LIBERAL, _ESTABLISHED = b"\x0a\x0a", 3
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
#: Attributes of the addresses of a tuple, source and target, and of a translation, least and greatest.
_SOURCE, _TARGET = {4: 1, 6: 3}, {4: 2, 6: 4}
_LEAST, _GREATEST = {4: 1, 6: 4}, {4: 2, 6: 5}
_PORT = struct.Struct("!H2x")


def entries(flows: Iterable[Flow], *, seconds: int) -> Iterator[bytes]:
    """Yield the requests for entries by which ``flows`` reach their address and port here; ``seconds``: if unused."""
    for flow in flows:
        reply = _way(_REPLY, (flow.dialled, flow.dialled_port), (flow.client, flow.client_port))
        members = (_original(flow), reply, _translation(flow.address, flow.port), _properties(seconds))
        yield message(_NEW, REQUEST | _CREATE | _EXCLUSIVE, _FAMILY[flow.family], members)


def deletions(flows: Iterable[Flow]) -> Iterator[bytes]:
    """Yield the requests that delete the entries of ``flows``."""
    for flow in flows:
        yield message(_DELETE, REQUEST, _FAMILY[flow.family], (_original(flow),))


def _original(flow: Flow) -> bytes:
    return _way(_ORIGINAL, (flow.client, flow.client_port), (flow.dialled, flow.dialled_port))


def _way(kind: int, start: tuple[bytes, int], end: tuple[bytes, int]) -> bytes:
    (source, port), (target, to) = start, end
    before, between, behind, last = _frame(kind, len(source))
    return b"".join((before, source, between, target, behind, _PORT.pack(port), last, _PORT.pack(to)))


@cache
def _frame(kind: int, size: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what is before, between and behind the two addresses and ports of a tuple."""
    family, address, port = 4 if size == 4 else 6, bytes(size), bytes(2)
    addresses = nested(1, attribute(_SOURCE[family], address), attribute(_TARGET[family], address))
    ports = nested(2, attribute(1, bytes([socket.IPPROTO_TCP])), attribute(2, port), attribute(3, port))
    whole = nested(kind, addresses, ports)
    return whole[:12], whole[12 + size : 16 + size], whole[16 + 2 * size : -12], whole[-8:-4]


@cache
def _translation(address: bytes, port: int) -> bytes:
    family, number = 4 if len(address) == 4 else 6, port.to_bytes(2, "big")
    ports = nested(3, attribute(1, number), attribute(2, number))
    return nested(_TRANSLATION, attribute(_LEAST[family], address), attribute(_GREATEST[family], address), ports)


@cache
def _properties(seconds: int) -> bytes:
    state = attribute(1, bytes([_ESTABLISHED])) + attribute(4, _LIBERAL) + attribute(5, _LIBERAL)
    status, timeout = (struct.pack("!I", number) for number in (_KNOWN_WELL, seconds))
    return nested(_PROTOCOL, nested(1, state)) + attribute(_STATUS, status) + attribute(_TIMEOUT, timeout)
