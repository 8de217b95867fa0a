"""Prices that come without being asked for: a daemon that speaks first.

    portfleet-daemon --port 7101 --handler ticker:Ticker
    printf 'subscribe EUR\\n' | nc localhost 7101

A client subscribes and from then on gets a line per tick, `EUR 1.0832`, until it unsubscribes or goes. One that reads
too slowly misses ticks and never holds up another. At a release subscriptions go along with the connections, and the
new process ticks on.
"""

from __future__ import annotations

import asyncio
import random

from portfleet_daemon.client import Client, broadcast

EVERY = 0.1  # seconds
PRICES = {b"EUR": 1.08, b"CHF": 1.13, b"GBP": 1.27}


class Ticker:
    """Keeps who wants which symbol; one task ticks for all."""

    def __init__(self) -> None:
        self.subscribers: dict[bytes, set[Client]] = {symbol: set() for symbol in PRICES}
        self.ticking: asyncio.Task[None] | None = None

    def connected(self, conn: Client) -> None:
        """A client has come."""
        conn.state = set()
        if self.ticking is None:
            self.ticking = asyncio.get_running_loop().create_task(self.tick())

    def request(self, conn: Client, data: bytes) -> bytes:
        """`subscribe SYMBOL` or `unsubscribe SYMBOL`."""
        verb, _, symbol = data.partition(b" ")
        if symbol not in PRICES or verb not in (b"subscribe", b"unsubscribe"):
            return b"error: subscribe or unsubscribe one of " + b" ".join(PRICES)
        if verb == b"subscribe":
            conn.state.add(symbol)
            self.subscribers[symbol].add(conn)
        else:
            conn.state.discard(symbol)
            self.subscribers[symbol].discard(conn)
        return b"ok"

    def disconnected(self, conn: Client) -> None:
        """A client has gone."""
        for symbol in conn.state:
            self.subscribers[symbol].discard(conn)

    moved = disconnected  # to the next process: for this one it is the same

    def export_state(self, conn: Client) -> bytes:
        """What the next process has to know."""
        return b" ".join(sorted(conn.state))

    def import_state(self, conn: Client, blob: bytes) -> None:
        """Go on in the next process."""
        self.connected(conn)
        for symbol in blob.split():
            self.request(conn, b"subscribe " + symbol)

    async def tick(self) -> None:
        """Move the prices and tell every client, for ever."""
        while True:
            await asyncio.sleep(EVERY)
            for symbol, price in PRICES.items():
                PRICES[symbol] = price * (1 + random.uniform(-1, 1) / 10_000)  # noqa: S311 (no key is made of it)
                await broadcast(self.subscribers[symbol], b"%b %.4f" % (symbol, PRICES[symbol]))
