"""The kernel's connection table, by ctnetlink: count and forget entries.

An entry's mark says which instance its connection belongs to; the rules set it with the first packet. Written here
because the conntrack program is not installed everywhere and costs a process start (3 ms) on every ejection.
Attributes: linux/netfilter/nfnetlink_conntrack.h; a status bit: linux/netfilter/nf_conntrack_common.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping

from portfleet.core.errors import Exit, PortfleetError
from portfleet.linux.netlink import Netfilter, attribute, attributes

_GET, _DELETE = 0x101, 0x102  # subsystem 1 (ctnetlink), messages 1 and 2
_TUPLE_ORIG, _STATUS, _PROTOCOL, _MARK, _ID, _MARK_MASK = 1, 3, 4, 8, 12, 21
_SEEN_REPLY = 1 << 1
_PROTOCOL_TCP, _TCP_STATE, _ESTABLISHED = 1, 1, 3
_GONE = (0, errno.ENOENT)


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


def _refused(error: OSError) -> PortfleetError:
    hint = "run as root, or give the program CAP_NET_ADMIN" if error.errno == errno.EPERM else "modprobe nf_conntrack"
    words = f"cannot reach the kernel's connection table: {error.strerror}"
    return PortfleetError(words, hint=hint, code=Exit.KERNEL)
