"""What daemons count, by their answers to `status` on their control sockets: requests, errors, latency."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Counters:
    """Sums over instances since their start: requests, errors and the latency histogram (bounds in µs → requests)."""

    requests: int = 0
    errors: int = 0
    latency: tuple[tuple[float, int], ...] = ()

    def since(self, before: Counters) -> Counters:
        """Return what came since ``before``; of what has become less, which only a daemon that errs says, nothing."""
        earlier = dict(before.latency)
        return Counters(
            max(0, self.requests - before.requests),
            max(0, self.errors - before.errors),
            tuple((bound, max(0, count - earlier.get(bound, 0))) for bound, count in self.latency),
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


def add(found: Iterable[Counters]) -> Counters:
    """Sum the counters of several instances, whose buckets may differ."""
    requests = errors = 0
    latency: dict[float, int] = {}
    for one in found:
        requests += one.requests
        errors += one.errors
        for bound, count in one.latency:
            latency[bound] = latency.get(bound, 0) + count
    return Counters(requests, errors, tuple(sorted(latency.items())))
