"""A handler that tells each client its own address, as the proxy in front has named it."""

from __future__ import annotations

from portfleet_daemon.client import Client


class Peers:
    """Answers with the client's address; it keeps nothing."""

    def request(self, conn: Client, data: bytes) -> bytes:
        return conn.peer[0].encode() if conn.peer else b"?"

    def export_state(self, conn: Client) -> bytes:
        return b""

    def import_state(self, conn: Client, blob: bytes) -> None:
        """Take nothing over."""
