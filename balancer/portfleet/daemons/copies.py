"""Copies of connections that speak here and are not the daemon's yet: they outlive the process that restored them.

A connection is closed, and its client told so, when the last process that has it ends. So while a batch is on its way
to the daemon, copies of it lie in a socket whose other end a second process has (`Copies.after`), which completes the
batch if the first was killed.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from portfleet.daemons.exchange import Control
from portfleet.daemons.handing import Handing, HandingFailed
from portfleet.daemons.parcels import MOST
from portfleet.linux import tcp_repair

_LONGEST = 1 << 16


class Copies:
    """The socket; made before the fork, and used by both processes."""

    def __init__(self) -> None:
        self._lay, self._lie = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lie.setblocking(False)
        self._hello: Mapping[str, Any] = {}

    def introduce(self, hello: Mapping[str, Any]) -> None:
        """Note how a hand-off to the daemon is begun."""
        self._hello = hello

    def keep(self, sockets: Sequence[socket.socket], body: bytes) -> None:
        """Lay down copies of a batch and its records. Raises OSError."""
        file = os.memfd_create("batch")
        try:
            with os.fdopen(os.dup(file), "wb") as whole:
                whole.write(json.dumps(self._hello).encode() + b"\n" + body)
            socket.send_fds(self._lay, [b"batch"], [file])
        finally:
            os.close(file)
        socket.send_fds(self._lay, [b"connections"], [sock.fileno() for sock in sockets])

    def drop(self) -> None:
        """Close the copies: the daemon has the batch, or all of it is silent."""
        for descriptors in self._taken():
            for descriptor in descriptors:
                os.close(descriptor)

    def after(self, place: Control) -> int:
        """Return how many connections lay here when the other process ended, having handed them to the daemon.

        ``place``: that daemon's control socket. Raises HandingFailed, OSError; the connections are closed then, silent.
        """
        taken = self._taken()
        if len(taken) < 2:
            return 0
        sockets = [tcp_repair.borrowed(descriptor) for descriptor in taken[1]]
        try:
            with os.fdopen(taken[0][0], "rb") as whole:
                whole.seek(0)
                hello, _, body = whole.read().partition(b"\n")
            for sock in sockets:
                if tcp_repair.is_silent(sock):
                    tcp_repair.thaw(sock, asking=True)
            handing = Handing.to(place, json.loads(hello))
            handing.pass_on([sock.fileno() for sock in sockets], body)
            handing.end()
        except (HandingFailed, OSError):
            for sock in sockets:
                with suppress(OSError):
                    tcp_repair.vanish(sock)
            raise
        finally:
            for sock in sockets:
                sock.close()
        return len(sockets)

    def _taken(self) -> list[list[int]]:
        """Return the descriptors of each message that lies here."""
        found = []
        with suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(self._lie, _LONGEST, MOST)
                if not data:
                    break
                found.append(list(descriptors))
        return found
