"""The listener that a local connection would come to, by sock_diag(7): a tenth of the cost of connecting to it.

The kernel finds it as it does for a SYN (inet_diag_find_one_icsk, inet_lookup), so one that is there and whose accept
queue is empty would take a connection at once. Layouts: as in `sockdiag`.
"""

from __future__ import annotations

import socket
import struct
from functools import lru_cache

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 0x1
#: TCP_LISTEN of net/tcp_states.h; the loopback interface, which is the first of every network namespace.
_LISTEN, _LOOPBACK = 10, 1
_NO_COOKIE = b"\xff" * 8
#: Of an answer: its length and kind, then of struct inet_diag_msg family, state and port, and how many wait.
_ANSWER = struct.Struct("=LH10x BB2x H 46x4x I".replace(" ", ""))
#: The addresses that can be asked about, and how the kernel has them.
LOOPBACK = {"127.0.0.1": socket.inet_pton(socket.AF_INET, "127.0.0.1"), "::1": socket.inet_pton(socket.AF_INET6, "::1")}


class Listening:
    """Asks the kernel, over one socket for as long as it lives."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None

    def takes(self, host: str, port: int) -> bool:
        """Return whether a process listens there and none waits for it; False also if the kernel does not tell.

        ``host`` is one of the two loopback addresses; of any other this is False.
        """
        if host not in LOOPBACK:
            return False
        try:
            if self._netlink is None:
                flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                self._netlink = socket.socket(socket.AF_NETLINK, flags, _NETLINK_SOCK_DIAG)
            self._netlink.send(_question(host, port))
            answer = self._netlink.recv(1024)  # it is there: a question is answered within send(2)
        except OSError:
            self._netlink = None
            return False
        if len(answer) < _ANSWER.size:
            return False
        _, kind, _, state, found, waiting = _ANSWER.unpack_from(answer)
        return kind == _SOCK_DIAG_BY_FAMILY and (state, socket.ntohs(found), waiting) == (_LISTEN, port, 0)


@lru_cache(maxsize=8192)
def _question(host: str, port: int) -> bytes:
    """Return the request for the listener of a connection from ``host`` to itself (struct inet_diag_req_v2)."""
    address = LOOPBACK[host].ljust(16, b"\0")
    family = socket.AF_INET if len(LOOPBACK[host]) == 4 else socket.AF_INET6
    ends = struct.pack("!HH", port, 0) + address + address + struct.pack("=I", _LOOPBACK) + _NO_COOKIE
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN) + ends
    return struct.pack("=LHHLL", 16 + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body
