"""What a handler that keeps state per connection sees of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from portfleet_daemon.sockets import FourTuple, four_tuple

if TYPE_CHECKING:
    from portfleet_daemon.connection import Connection


class Client:
    """One client connection; `state` is the handler's own."""

    __slots__ = ("_connection", "state")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.state: Any = None

    @property
    def addresses(self) -> FourTuple | None:
        """Local address and port, peer address and port; None if the connection is gone."""
        return None if self._connection.closed else four_tuple(self._connection.fd)

    def close(self) -> None:
        """Close the connection after the current turn, without waiting for unsent replies."""
        self._connection.hub.close_soon(self._connection)
