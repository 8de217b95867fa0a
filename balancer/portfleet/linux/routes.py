"""Whether an address is this box's own, asked of the kernel's routes as ``fib saddr type local`` asks them.

By rtnetlink(7), for binding to an address tells nothing where net.ipv4.ip_nonlocal_bind is set, and an address may be
this box's by a route alone.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from types import TracebackType
from typing import Self

from portfleet.linux.netlink import REQUEST, attribute, attributes, messages

_GET_ROUTE, _ROUTE = 26, 24
_DESTINATION = 1
_UNICAST, _LOCAL = 1, 2  # RTN_UNICAST, RTN_LOCAL
_DEVICE, _GATEWAY, _VIA = 4, 5, 18  # RTA_OIF, RTA_GATEWAY, RTA_VIA
_HEADER = struct.Struct("=LHHLL")
_MESSAGE = struct.Struct("=8BL")  # struct rtmsg: family, prefix, …; its eighth byte is the type


def is_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether ``address`` is this box's own; False where the kernel has no route to it."""
    with Routes() as routes:
        return routes.is_local(address.packed)


def neighbour_by(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    """Return the interface on whose segment ``address`` is; None if a router is in between, or it is this box's own."""
    with Routes() as routes:
        for body in routes.to(address.packed):
            found = attributes(body[_MESSAGE.size :])
            if body[7] == _UNICAST and _GATEWAY not in found and _VIA not in found and _DEVICE in found:
                return socket.if_indextoname(int.from_bytes(found[_DEVICE], sys.byteorder))
    return None


class Routes:
    """Asks for routes over one socket: for many questions."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def is_local(self, address: bytes) -> bool:
        """Return whether an address (4 or 16 bytes) is this box's own."""
        return _LOCAL in [body[7] for body in self.to(address)]

    def to(self, address: bytes) -> list[bytes]:
        """Return the kernel's routes to an address, each as struct rtmsg with its attributes."""
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        body = _MESSAGE.pack(family, 8 * len(address), 0, 0, 0, 0, 0, 0, 0) + attribute(_DESTINATION, address)
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _GET_ROUTE, REQUEST, 1, 0) + body)
        return [body for kind, _, body in messages(self._socket.recv(1 << 16)) if kind == _ROUTE]
