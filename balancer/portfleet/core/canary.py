"""A canary as values: its plan, what there was at the begin of a step, and the verdict on what came since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from portfleet.core.counters import Counters
from portfleet.core.typed import within

#: Fewer requests than this say nothing about errors or latency; a canary that saw fewer is not promoted.
ENOUGH = 20
#: A step whose canary sees too few requests lasts at most so many times as long as was asked.
PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class Canary:
    """Shares of the slots in per cent that the new colour gets one after the other, ``every`` seconds each.

    It fails when over ``max_errors`` per cent of its requests fail, or its p99 is over ``max_p99`` times the live one.
    A step that saw fewer than ``min_requests`` lasts up to `PATIENCE` times as long, and is given up then.
    """

    steps: tuple[int, ...]
    every: float
    max_errors: float
    max_p99: float
    min_requests: int = ENOUGH

    def __post_init__(self) -> None:
        for percent in self.steps:
            within("steps", percent, 1, 100)
        within("every", self.every, 0)
        within("min_requests", self.min_requests, 0)


@dataclass(frozen=True)
class Counted:
    """Counters as JSON can hold them: it has no infinity, which is the last bound of a latency histogram."""

    requests: int
    errors: int
    latency: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        self.counters()

    @classmethod
    def of(cls, found: Counters) -> Counted:
        """Return ``found`` as JSON can hold it."""
        return cls(found.requests, found.errors, tuple((str(bound), count) for bound, count in found.latency))

    def counters(self) -> Counters:
        """Return the counters themselves; raises ValueError for a bound that is not a number."""
        return Counters(self.requests, self.errors, tuple((float(bound), count) for bound, count in self.latency))


@dataclass(frozen=True)
class CanaryStart:
    """What there was at the begin of a canary's step at ``percent``: processes, and both colours' counters."""

    percent: int
    pids: Mapping[str, int | None]
    canary: Counted
    live: Counted


def seen(counted: Counters) -> int:
    """Return how many requests a colour answered, well or not."""
    return counted.requests + counted.errors


def due(present: int, *, percent: int, there: int) -> int:
    """Return how many of ``present`` connections of the live colour are to go to the canary, which has ``there``.

    A canary at ``percent`` has that share of both; asked again it is none more.
    """
    return max(0, (present + there) * percent // 100 - there)


def judge(canary: Counters, live: Counters, *, max_errors: float, max_p99: float) -> str:
    """Return what is wrong with the canary compared with the live colour; "" for nothing (or too little to tell)."""
    if seen(canary) < ENOUGH:
        return ""
    if canary.error_share > max_errors and canary.error_share > live.error_share:
        return f"{canary.error_share:.1f} % of its requests fail, {max_errors:g} % may (live: {live.error_share:.1f} %)"
    mine, theirs = canary.quantile(0.99), live.quantile(0.99)
    if live.requests >= ENOUGH and theirs and mine > max_p99 * theirs:
        return f"its p99 is {mine:g} µs, over {max_p99:g} × the live colour's {theirs:g} µs"
    return ""
