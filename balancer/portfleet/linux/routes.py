"""Whether an address is this box's own, asked of the kernel's routes as ``fib saddr type local`` asks them.

By rtnetlink(7), for binding to an address tells nothing where net.ipv4.ip_nonlocal_bind is set, and an address may be
this box's by a route alone.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from portfleet.linux.netlink import REQUEST, attribute, messages

_GET_ROUTE, _ROUTE = 26, 24
_DESTINATION = 1
_LOCAL = 2  # RTN_LOCAL
_HEADER = struct.Struct("=LHHLL")
_MESSAGE = struct.Struct("=8BL")  # struct rtmsg: family, prefix, …; its eighth byte is the type


def is_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether ``address`` is this box's own; False where the kernel has no route to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _MESSAGE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + attribute(_DESTINATION, address.packed)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asked:
        asked.bind((0, 0))
        asked.send(_HEADER.pack(_HEADER.size + len(body), _GET_ROUTE, REQUEST, 1, 0) + body)
        return any(kind == _ROUTE and found[7] == _LOCAL for kind, _, found in messages(asked.recv(1 << 16)))
