"""The kernel's connection table, by ctnetlink: count and forget entries.

An entry's reply comes from the instance, so its source says which instance a connection went to first; the kernel picks
entries by it (CTA_FILTER, Linux 5.8). Connection marks are the site's. Written here because the conntrack program is
not installed everywhere and costs a process start (3 ms) on every ejection.
Attributes: linux/netfilter/nfnetlink_conntrack.h; status bits: linux/netfilter/nf_conntrack_common.h; what a filter
compares: net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from portfleet.core.changes import InstanceRule
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.value import value
from portfleet.linux.netlink import Netfilter, attribute, attributes, nested

if TYPE_CHECKING:
    from portfleet.linux.sockdiag import Ends

_GET, _DELETE = 0x101, 0x102  # subsystem 1 (ctnetlink), messages 1 and 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOCOL, _ID, _FILTER = 1, 2, 3, 4, 12, 25
_TIMESTAMP, _START = 20, 1
_FILTER_ORIG = 1
_FILTER_REPLY, _BY_SOURCE, _BY_PROTOCOL, _BY_SOURCE_PORT = 2, 1 << 0, 1 << 3, 1 << 4
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_V4_SRC, _IP_V4_DST, _IP_V6_SRC, _IP_V6_DST = 1, 2, 3, 4
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_SEEN_REPLY, _DESTINATION_NAT = 1 << 1, 1 << 5
_PROTOCOL_TCP, _TCP_STATE, _ESTABLISHED = 1, 1, 3
#: TIME_WAIT and CLOSE (enum tcp_conntrack).
_OVER = (7, 8)
_GONE = (0, errno.ENOENT)


def established(instance: InstanceRule) -> int:
    """Return how many established connections go to a remote instance. Raises PortfleetError if the kernel refuses.

    Remote instances with one address and port, of whatever service, cannot be told apart.
    """
    with _netfilter() as netfilter:
        return sum(_state(entry) == _ESTABLISHED for _, entry in _dump(netfilter, instance))


@value
class Tracked:
    """An established connection of a client by its entry: the client's port, and where its replies come from.

    ``since``: when it began (Unix time); None unless net.netfilter.nf_conntrack_timestamp is on.
    """

    port: int
    address: bytes
    replies_from: int
    since: float | None


def of_client(address: bytes) -> Iterator[Tracked]:
    """Return the established, translated connections of a client. Raise PortfleetError if the kernel refuses."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    source = _IP_V4_SRC if len(address) == 4 else _IP_V6_SRC
    chosen = (
        nested(_TUPLE_ORIG, nested(_TUPLE_IP, attribute(source, address))),
        nested(_FILTER, attribute(_FILTER_ORIG, struct.pack("=I", _BY_SOURCE))),
    )
    with _netfilter() as netfilter:
        try:
            for _, entry in netfilter.dump(_GET, family, *chosen):
                original, port = _source(entry[_TUPLE_ORIG])
                if original == address and _status(entry) & _DESTINATION_NAT and _state(entry) == _ESTABLISHED:
                    began = attributes(entry.get(_TIMESTAMP, b"")).get(_START)
                    since = int.from_bytes(began, "big") / 1e9 if began else None
                    yield Tracked(port, *_source(entry[_TUPLE_REPLY]), since)
        except OSError as error:
            raise _refused(error) from None


def _source(packed: bytes) -> tuple[bytes, int]:
    """Return the source address and port of one direction of an entry."""
    parts = attributes(packed)
    ip, protocol = attributes(parts[_TUPLE_IP]), attributes(parts[_TUPLE_PROTO])
    return ip.get(_IP_V4_SRC) or ip.get(_IP_V6_SRC, b""), int.from_bytes(protocol.get(_PROTO_SRC_PORT, b""), "big")


def forget_half_open(instance: InstanceRule) -> int:
    """Delete an instance's entries that saw no reply, so that the next SYN is translated afresh; return how many.

    Entries of established connections are never touched. Raises PortfleetError if the kernel refuses.
    """
    with _netfilter() as netfilter:
        half_open = [
            (family, attribute(_TUPLE_ORIG, entry[_TUPLE_ORIG]) + attribute(_ID, entry[_ID]))
            for family, entry in _dump(netfilter, instance)
            if not _status(entry) & _SEEN_REPLY
        ]
        results = netfilter.change(_DELETE, half_open)
    for code in results:
        if code not in _GONE:
            raise _refused(OSError(code, os.strerror(code)))
    return results.count(0)


class Forgetter:
    """Deletes entries of connections that have ended, over one socket.

    What the kernel refuses stays until its time is up, as it would without this.
    """

    def __init__(self) -> None:
        self._netfilter: Netfilter | None = None

    def forget(self, connections: Iterable[Ends]) -> None:
        """Delete those entries of ``connections`` that are of a connection that has ended, not of a later one."""
        try:
            if self._netfilter is None:
                self._netfilter = Netfilter()
            self._netfilter.change(_DELETE, list(self._ended(self._netfilter, connections)))
        except OSError:
            self._netfilter = None

    def _ended(self, netfilter: Netfilter, connections: Iterable[Ends]) -> Iterator[tuple[int, bytes]]:
        for connection in connections:
            family, original = _original(connection)
            try:
                entry = netfilter.get(_GET, family, original)
            except FileNotFoundError:
                continue
            if _state(entry) in _OVER:  # its identifier: another connection may have the same ports at any moment
                yield family, original + attribute(_ID, entry[_ID])


def _original(connection: Ends) -> tuple[int, bytes]:
    """Return the family and the tuple of a connection that its local end has begun."""
    old = len(connection.local) == 4
    source, target = (_IP_V4_SRC, _IP_V4_DST) if old else (_IP_V6_SRC, _IP_V6_DST)
    addresses = attribute(source, connection.local), attribute(target, connection.peer)
    ports = (
        attribute(_PROTO_SRC_PORT, connection.port.to_bytes(2, "big")),
        attribute(_PROTO_DST_PORT, connection.peer_port.to_bytes(2, "big")),
    )
    way = nested(_TUPLE_PROTO, attribute(_PROTO_NUM, bytes([socket.IPPROTO_TCP])), *ports)
    return socket.AF_INET if old else socket.AF_INET6, nested(_TUPLE_ORIG, nested(_TUPLE_IP, *addresses), way)


def _netfilter() -> Netfilter:
    try:
        return Netfilter()
    except OSError as error:
        raise _refused(error) from None


def _dump(netfilter: Netfilter, instance: InstanceRule) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Return (family, attributes) of each entry that was translated to ``instance``."""
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            for _, entry in netfilter.dump(_GET, family, *_chosen(instance, family)):
                if _status(entry) & _DESTINATION_NAT:
                    yield family, entry
    except OSError as error:
        raise _refused(error) from None


def _chosen(instance: InstanceRule, family: int) -> Iterator[bytes]:
    """Return the attributes by which the kernel picks the entries whose replies come from ``instance``."""
    compared = _BY_PROTOCOL | _BY_SOURCE_PORT
    port, address = instance.port, b""
    if instance.remote is not None:
        port, packed = instance.remote.port, ipaddress.ip_address(instance.remote.address or "").packed
        if (len(packed) == 4) == (family == socket.AF_INET):
            compared |= _BY_SOURCE
            address = attribute(_IP_V4_SRC if len(packed) == 4 else _IP_V6_SRC, packed)
    way = attribute(_PROTO_NUM, bytes([socket.IPPROTO_TCP])) + attribute(_PROTO_SRC_PORT, port.to_bytes(2, "big"))
    yield nested(_TUPLE_REPLY, nested(_TUPLE_IP, address), nested(_TUPLE_PROTO, way))
    yield nested(_FILTER, attribute(_FILTER_REPLY, struct.pack("=I", compared)))


def _status(entry: Mapping[int, bytes]) -> int:
    return int.from_bytes(entry.get(_STATUS, b""), "big")


def _state(entry: Mapping[int, bytes]) -> int:
    """Return an entry's TCP state (enum tcp_conntrack); 0 for one of another protocol."""
    tcp = attributes(attributes(entry.get(_PROTOCOL, b"")).get(_PROTOCOL_TCP, b""))
    return int.from_bytes(tcp.get(_TCP_STATE, b""), "big")


def _refused(error: OSError) -> PortfleetError:
    hint = "run as root, or give the program CAP_NET_ADMIN" if error.errno == errno.EPERM else "modprobe nf_conntrack"
    words = f"cannot reach the kernel's connection table: {error.strerror}"
    return PortfleetError(words, hint=hint, code=Exit.KERNEL)
