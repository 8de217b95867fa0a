"""Make a listening socket ignore new handshakes, while those under way are finished.

Looking whether anything waits and closing the listener are two steps, and a client whose handshake ends between
them believes it is connected and is reset. A least TTL of 255 on the listener (IP_MINTTL, ip(7); IPV6_MINHOPCOUNT; both
made for RFC 5082) closes the gap: the kernel compares it with packets for the listener itself, so SYNs are dropped,
but not with those for one of its unfinished handshakes. The client whose SYN was dropped sends it again after 1 s. A
host on the same link that sends with a TTL of 255 (Linux: 64) is heard still.

No privilege is needed for it, unlike for a socket filter, for which Linux asks CAP_NET_ADMIN on TCP sockets since 2026
(decision 0011). Accepted sockets inherit it, so it has to be taken from them, or they would ignore everything;
what a client sends before that, it sends again after 0.2 s.
"""

from __future__ import annotations

import contextlib
import socket

IP_MINTTL, IPV6_MINHOPCOUNT = 21, 73  # linux/in.h, linux/in6.h; not in Python's socket module
LARGEST_TTL = 255


def quiesce(listener: socket.socket) -> None:
    """Let no further handshake begin; raise OSError if the kernel does not know the option."""
    _set_least_ttl(listener, LARGEST_TTL)


def unquiesce(sock: socket.socket) -> None:
    """Undo `quiesce`, also on a socket that was accepted meanwhile."""
    with contextlib.suppress(OSError):  # a kernel without the option has quiesced nothing
        _set_least_ttl(sock, 0)


def _set_least_ttl(sock: socket.socket, least: int) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, least)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, least)
