"""The kernel's connection table, by ctnetlink: count, forget and re-mark entries.

An entry's mark says which instance its connection belongs to; the rules set it with the first packet. Written here
because the conntrack program is not installed everywhere and costs a process start (3 ms) on every ejection.
Attributes: linux/netfilter/nfnetlink_conntrack.h; a status bit: linux/netfilter/nf_conntrack_common.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from portfleet.core.errors import Exit, PortfleetError
from portfleet.linux.netlink import Netfilter, attribute, attributes, nested

_NEW, _GET, _DELETE = 0x100, 0x101, 0x102  # subsystem 1 (ctnetlink), messages 0 … 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOCOL, _MARK, _ID, _MARK_MASK = 1, 2, 3, 4, 8, 12, 21
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_V4_SRC, _IP_V4_DST, _IP_V6_SRC, _IP_V6_DST = 1, 2, 3, 4
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_SEEN_REPLY = 1 << 1
_PROTOCOL_TCP, _TCP_STATE, _ESTABLISHED = 1, 1, 3
_GONE = (0, errno.ENOENT)


@dataclass(frozen=True)
class Connection:
    """An established connection as its server sees it: the client's address and port, its own address and port."""

    client: str
    client_port: int
    server: str
    server_port: int


def established(mark: int) -> int:
    """Return how many established TCP connections carry ``mark``. Raises PortfleetError where the kernel refuses."""
    with _netfilter() as netfilter:
        return sum(_state(entry) == _ESTABLISHED for _, entry in _dump(netfilter, mark))


def forget_half_open(mark: int) -> int:
    """Delete the entries with ``mark`` that saw no reply, so that the next SYN is translated afresh; gives how many.

    Entries of established connections are never touched. Raises PortfleetError where the kernel refuses.
    """
    with _netfilter() as netfilter:
        half_open = [
            (family, attribute(_TUPLE_ORIG, entry[_TUPLE_ORIG]) + attribute(_ID, entry[_ID]))
            for family, entry in _dump(netfilter, mark)
            if not struct.unpack("!I", entry[_STATUS])[0] & _SEEN_REPLY
        ]
        results = netfilter.change(_DELETE, half_open)
    for code in results:
        if code not in _GONE:
            raise _refused(OSError(code, os.strerror(code)))
    return results.count(0)


def set_marks(marks: Mapping[Connection, int]) -> int:
    """Return connections another mark (a hand-off gave them another owner); gives how many entries were found.

    A connection without an entry (a client on this box that dialed the instance's port itself) is passed over.
    Raises PortfleetError where the kernel refuses.
    """
    with _netfilter() as netfilter:
        wanted = (
            (
                family,
                nested(_TUPLE_REPLY, *_reply_tuple(connection, family)) + attribute(_MARK, mark.to_bytes(4, "big")),
            )
            for connection, mark in marks.items()
            if (family := _family(connection.client))
        )
        results = netfilter.change(_NEW, wanted)
    for code in results:
        if code not in _GONE:
            raise _refused(OSError(code, os.strerror(code)))
    return results.count(0)


def _netfilter() -> Netfilter:
    try:
        return Netfilter()
    except OSError as error:
        raise _refused(error) from None


def _dump(netfilter: Netfilter, mark: int | None = None) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Return (family, attributes) of each entry; with ``mark`` the kernel itself picks those that carry it."""
    chosen = b""
    if mark is not None:
        chosen = attribute(_MARK, mark.to_bytes(4, "big")) + attribute(_MARK_MASK, b"\xff\xff\xff\xff")
    try:
        for family, entry in netfilter.dump(_GET, socket.AF_UNSPEC, chosen):
            if mark is None or _mark(entry) == mark:
                yield family, entry
    except OSError as error:
        raise _refused(error) from None


def _mark(entry: Mapping[int, bytes]) -> int:
    return int.from_bytes(entry.get(_MARK, b""), "big")


def _state(entry: Mapping[int, bytes]) -> int:
    """Return an entry's TCP state (enum tcp_conntrack); 0 for one of another protocol."""
    tcp = attributes(attributes(entry.get(_PROTOCOL, b"")).get(_PROTOCOL_TCP, b""))
    return int.from_bytes(tcp.get(_TCP_STATE, b""), "big")


def _family(address: str) -> int:
    return socket.AF_INET if _plain(address).version == 4 else socket.AF_INET6


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address; ::ffff:192.0.2.2 of a dual-stack socket is the IPv4 address that is on the wire."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return (found.ipv4_mapped or found) if found.version == 6 else found


def _reply_tuple(connection: Connection, family: int) -> Iterable[bytes]:
    """Name an entry by its reply direction: from the server's true address and port to the client."""
    source, target = (_IP_V4_SRC, _IP_V4_DST) if family == socket.AF_INET else (_IP_V6_SRC, _IP_V6_DST)
    yield nested(
        _TUPLE_IP,
        attribute(source, _plain(connection.server).packed),
        attribute(target, _plain(connection.client).packed),
    )
    yield nested(
        _TUPLE_PROTO,
        attribute(_PROTO_NUM, bytes([socket.IPPROTO_TCP])),
        attribute(_PROTO_SRC_PORT, connection.server_port.to_bytes(2, "big")),
        attribute(_PROTO_DST_PORT, connection.client_port.to_bytes(2, "big")),
    )


def _refused(error: OSError) -> PortfleetError:
    hint = "run as root, or give the program CAP_NET_ADMIN" if error.errno == errno.EPERM else "modprobe nf_conntrack"
    words = f"cannot reach the kernel's connection table: {error.strerror}"
    return PortfleetError(words, hint=hint, code=Exit.KERNEL)
