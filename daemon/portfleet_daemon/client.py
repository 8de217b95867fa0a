"""What a handler that keeps state per connection sees of a connection."""

from __future__ import annotations

from typing import Any, Protocol

from portfleet_daemon.proxy import unpack_peer
from portfleet_daemon.sockets import FourTuple, four_tuple


class Served(Protocol):
    """The connection behind a Client."""

    fd: int
    closed: bool
    peer: bytes

    def close_soon(self) -> None: ...


class Client:
    """One client connection; `state` is the handler's own."""

    __slots__ = ("_connection", "state")

    def __init__(self, connection: Served) -> None:
        self._connection = connection
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

    def close(self) -> None:
        """Close the connection after the current turn, without waiting for unsent replies."""
        self._connection.close_soon()
