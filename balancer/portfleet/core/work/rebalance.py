"""What a rebalance was asked."""

from __future__ import annotations

from dataclasses import dataclass

from portfleet.core.operations import Work
from portfleet.core.typed import within


@dataclass(frozen=True, kw_only=True)
class Rebalance(Work):
    """Move established connections until no instance has more than ``limit`` times the mean."""

    verb = "rebalance"
    limit: float

    def __post_init__(self) -> None:
        super().__post_init__()
        within("limit", self.limit, 1)
