"""How long something took, each time it was done: a histogram that costs an addition, for those who must not wait."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

#: Upper bounds in seconds, each included: from a small kernel transaction to what an operator notices.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Durations:
    """Counts of durations by bucket, one more for what is above the last of ``bounds``, and their sum in seconds."""

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one; of a clock that went back, nothing."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; the counts are those of each bucket by itself."""
        return {"bounds": self.bounds, "counts": list(self.counts), "sum": self.total}
