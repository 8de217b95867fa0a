"""How many connections a port has not accepted yet: asked of the kernel.

Established ones wait in the listener's accept queue, whose length is tcpi_unacked of its TCP_INFO (tcp_get_info() of
the kernel fills it so for a LISTEN socket). Handshakes that are not finished are request sockets in SYN_RECV, listed by
sock_diag(7) with a dump filtered by source port.
"""

from __future__ import annotations

import socket
import struct

UNACKED = 24  # offset of tcpi_unacked in struct tcp_info
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
SYN_RECV = 1 << 3 | 1 << 12  # TCP_SYN_RECV and TCP_NEW_SYN_RECV, which request sockets are in since Linux 4.4
HEADER = struct.Struct("=IHHII")
REQUEST = struct.Struct("=BBBxI")  # family, protocol, extensions, states; then struct inet_diag_sockid
SOCKID = struct.Struct("!HH16x16x4x8x")


def accept_queue(listener: socket.socket) -> int:
    """Return the number of connections established and not accepted."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    length: int = struct.unpack_from("=I", info, UNACKED)[0]
    return length


def handshakes(port: int) -> int:
    """Return the number of connections to `port` in SYN_RECV, both families; raise OSError without inet_diag."""
    return sum(_dump(family, port) for family in (socket.AF_INET, socket.AF_INET6))


def _dump(family: int, port: int) -> int:
    body = REQUEST.pack(family, socket.IPPROTO_TCP, 0, SYN_RECV) + SOCKID.pack(port, 0)
    found = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 4) as diag:  # NETLINK_SOCK_DIAG
        diag.settimeout(1)
        diag.send(HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 1, 0) + body)
        while True:
            data = diag.recv(65536)
            at = 0
            while at < len(data):
                size, kind, *_ = HEADER.unpack_from(data, at)
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data, at + HEADER.size)[0]
                    raise OSError(code, "sock_diag refused the dump")
                found += 1
                at += size + 3 & ~3
