"""Counters and the latency histogram: plain integers, fed once per turn of the loop."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

#: Upper bounds of the histogram's buckets in seconds: 8 µs to 16.8 s in steps of √2; one more bucket holds the rest.
BOUNDS = tuple(8e-6 * 2 ** (step / 2) for step in range(43))


class Stats:
    """What this process has done since it started.

    A request's latency is the time from the turn's wake-up to the turn's end, an upper bound that costs two clock reads
    per turn, not per request; for an awaited reply it is the time from the request to its reply.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.requests = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.errors = 0
        self.in_turn = 0  #: requests answered in the current turn outside the fast path
        self.max_lag = 0.0  #: seconds
        self.buckets = [0] * (len(BOUNDS) + 1)

    def turn(self, seconds: float, served: int, received: int, sent: int) -> None:
        """Count a turn of the loop: its length, and the requests and bytes of its fast path."""
        served += self.in_turn
        self.in_turn = 0
        self.bytes_in += received
        self.bytes_out += sent
        if served:
            self.requests += served
            self.buckets[bisect_left(BOUNDS, seconds)] += served
        self.max_lag = max(self.max_lag, seconds)

    def answered(self, number: int) -> None:
        """Count requests of the current turn that the loop does not count itself."""
        self.in_turn += number

    def lag(self, seconds: float) -> None:
        """Note how long asyncio kept the loop from its clients."""
        self.max_lag = max(self.max_lag, seconds)

    def awaited(self, seconds: float) -> None:
        """Count a request whose reply was awaited for `seconds`."""
        self.requests += 1
        self.buckets[bisect_left(BOUNDS, seconds)] += 1

    def latency(self) -> dict[str, Any]:
        """Return the histogram: `bounds_us` (upper bounds, the last bucket has none) and `counts`, one longer."""
        return {"bounds_us": [round(bound * 1e6, 1) for bound in BOUNDS], "counts": list(self.buckets)}
