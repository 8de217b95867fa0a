"""A handler for benchmarks/daemon/push.py: `go` is told to everybody, and answered with how long that took."""

import time
from typing import Any

from portfleet_daemon.client import Client, broadcast


class Push:
    """Keeps all connections; a client that has said nothing only listens."""

    def __init__(self) -> None:
        self.everybody: dict[Client, None] = {}

    def connected(self, conn: Client) -> None:
        """A client has come."""
        self.everybody[conn] = None

    def disconnected(self, conn: Client) -> None:
        """A client has gone."""
        del self.everybody[conn]

    def request(self, conn: Client, data: bytes) -> Any:  # noqa: ARG002 (both are given)
        """Answer `ping` at once, `go` when everybody was told."""
        return b"pong" if data == b"ping" else self._go()

    async def _go(self) -> bytes:
        began, cpu = time.perf_counter(), time.process_time()
        told = await broadcast(self.everybody, b"x" * 63)
        return b"%d %.6f %.6f" % (told, time.perf_counter() - began, time.process_time() - cpu)
