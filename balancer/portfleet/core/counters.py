"""What our daemons count, by the answer to `status` on their control sockets: requests, errors, latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Counters:
    """Sums over instances since their start: requests, errors and the latency histogram (bounds in µs → requests)."""

    requests: int = 0
    errors: int = 0
    latency: tuple[tuple[float, int], ...] = ()

    def since(self, before: Counters) -> Counters:
        """Return what came since ``before``."""
        earlier = dict(before.latency)
        return Counters(
            self.requests - before.requests,
            self.errors - before.errors,
            tuple((bound, count - earlier.get(bound, 0)) for bound, count in self.latency),
        )

    @property
    def error_share(self) -> float:
        """Errors per request, in per cent."""
        return 100 * self.errors / max(1, self.requests + self.errors)

    def quantile(self, share: float) -> float:
        """Return the upper bound in µs of the bucket that holds the quantile ``share``; 0 without requests."""
        total, seen = sum(count for _, count in self.latency), 0
        for bound, count in self.latency:
            seen += count
            if total and seen >= share * total:
                return bound
        return 0.0


def add(statuses: Iterable[Mapping[str, Any]]) -> Counters:
    """Sum the statuses of several instances."""
    requests = errors = 0
    latency: dict[float, int] = {}
    for status in statuses:
        requests += status["requests"]
        errors += status["errors"]
        bounds = [*status["latency"]["bounds_us"], float("inf")]
        for bound, count in zip(bounds, status["latency"]["counts"], strict=True):
            latency[bound] = latency.get(bound, 0) + count
    return Counters(requests, errors, tuple(sorted(latency.items())))
