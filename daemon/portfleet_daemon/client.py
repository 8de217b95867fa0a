"""What a handler that keeps state per connection sees of a connection, and how it speaks without being asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any, Protocol

from portfleet_daemon.loop import EPOLLOUT
from portfleet_daemon.proxy import unpack_peer
from portfleet_daemon.service import Service
from portfleet_daemon.sockets import FourTuple, four_tuple

#: Bytes that may wait in this process for a client that does not read; the kernel holds 128 KiB more.
MOST_UNSENT = 1 << 16
#: Clients of a broadcast in one turn of the loop: 64 writes of 7 µs hold the others up for half a millisecond.
AT_ONCE = 64


class Served(Protocol):
    """The connection behind a Client."""

    fd: int
    closed: bool
    ending: bool
    out: bytearray
    peer: bytes
    service: Service

    def close_soon(self) -> None: ...
    def watch(self, mask: int) -> None: ...


class Client:
    """One client connection; `state` is the handler's own."""

    __slots__ = ("_connection", "_waiting", "state")

    def __init__(self, connection: Served) -> None:
        self._connection = connection
        self._waiting: asyncio.Future[None] | None = None
        self.state: Any = None

    @property
    def addresses(self) -> FourTuple | None:
        """Return (local address, local port, peer address, peer port); None if the connection is gone."""
        return None if self._connection.closed else four_tuple(self._connection.fd)

    @property
    def peer(self) -> tuple[str, int] | None:
        """Return the client's address and port: what the proxy in front said, if there is one; None if it is gone."""
        if self._connection.peer:
            return unpack_peer(self._connection.peer)
        addresses = self.addresses
        return addresses[2:] if addresses else None

    @property
    def unsent(self) -> int:
        """Return how many bytes wait in this process for the client to read."""
        return len(self._connection.out)

    def close(self) -> None:
        """Close the connection after the current turn, without waiting for unsent replies."""
        self._connection.close_soon()

    def send(self, data: Any) -> bool:
        """Send a message that no request asked for, framed like a reply, between two replies.

        Return False, with nothing sent, if the connection is closed or handed off, or its client has more than 64 KiB
        left to read: `drained` waits for that. Raise what the framing raises for data that it cannot frame.
        """
        return self.send_framed(self.frame(data))

    def frame(self, data: Any) -> bytes:
        """Return `data` as the connection's framing writes it."""
        return self._connection.service.framing.reply(data)

    def send_framed(self, message: bytes) -> bool:
        """Send bytes that are framed already; as `send`.

        An error of the socket closes nothing here, in the middle of a handler's own loop over its clients: the epoll
        set reports it, and `disconnected` is called then.
        """
        connection = self._connection
        if connection.closed or connection.ending or len(connection.out) > MOST_UNSENT:
            return False
        selector = connection.service.selector
        if selector.age is not None:
            selector.age[connection.fd] = 1
        sent = 0
        if not connection.out:
            try:
                sent = os.write(connection.fd, message)
            except BlockingIOError:
                pass
            except OSError:
                return False
            connection.service.stats.bytes_out += sent
        if sent < len(message):
            connection.out += message[sent:]
            connection.watch(EPOLLOUT)
        return True

    async def drained(self) -> bool:
        """Wait until the kernel has taken all that was sent; return False if the connection is gone before that."""
        while self._connection.out and not self._connection.closed:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)
        return not self._connection.closed

    def wake(self) -> None:
        """Have `drained` look again: everything is sent, or the connection is gone."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


async def broadcast(clients: Iterable[Client], data: Any) -> int:
    """Send `data` to each of `clients`, framed once; return how many took it, which is what their `send` returned.

    Requests are served in between. A client that comes or goes meanwhile, or that is handed off, is as if it had done
    so before or after.
    """
    everybody = list(clients)
    if not everybody:
        return 0
    message = everybody[0].frame(data)
    took = 0
    for start in range(0, len(everybody), AT_ONCE):
        took += sum(client.send_framed(message) for client in everybody[start : start + AT_ONCE])
        await asyncio.sleep(0)
    return took
