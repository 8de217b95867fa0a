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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from portfleet.core.changes import InstanceRule
from portfleet.core.errors import Exit, PortfleetError
from portfleet.linux.netlink import Netfilter, attribute, attributes, nested

_GET, _DELETE = 0x101, 0x102  # subsystem 1 (ctnetlink), messages 1 and 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOCOL, _ID, _FILTER = 1, 2, 3, 4, 12, 25
_TIMESTAMP, _START = 20, 1
_FILTER_ORIG = 1
_FILTER_REPLY, _BY_SOURCE, _BY_PROTOCOL, _BY_SOURCE_PORT = 2, 1 << 0, 1 << 3, 1 << 4
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_V4_SRC, _IP_V6_SRC = 1, 3
_PROTO_NUM, _PROTO_SRC_PORT = 1, 2
_SEEN_REPLY, _DESTINATION_NAT = 1 << 1, 1 << 5
_PROTOCOL_TCP, _TCP_STATE, _ESTABLISHED = 1, 1, 3
_GONE = (0, errno.ENOENT)


def established(instance: InstanceRule) -> int:
    """Return how many established connections go to a remote instance. Raises PortfleetError if the kernel refuses.

    Remote instances with one address and port, of whatever service, cannot be told apart.
    """
    with _netfilter() as netfilter:
        return sum(_state(entry) == _ESTABLISHED for _, entry in _dump(netfilter, instance))


@dataclass(frozen=True)
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
