"""What a drain was asked and remembers, and one that ends in maintenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from portfleet.core.operations import Policy, Then, Work, named
from portfleet.core.records import Asked
from portfleet.core.typed import within


@dataclass(frozen=True, kw_only=True)
class Drain(Work):
    """Empty ``instances``; ``asked`` is what was asked of them before.

    Remembered: how many connections were ``handed`` off and how many ``ended`` and ``how``; ``left`` says in words
    what a hand-off left behind.
    """

    verb = "drain"
    FORMER = frozenset({"stop"})
    #: Whether the instances' processes are stopped when they are empty.
    stops: ClassVar[bool] = False
    instances: tuple[str, ...]
    asked: Mapping[str, Asked]
    rate: int | None
    handoff: bool
    deadline: float
    then: Then
    handed: int = 0
    left: str = ""
    ended: int = 0
    how: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        named(self.instances)
        if self.rate is not None:
            within("rate", self.rate, 1)
        within("deadline", self.deadline, 0)

    @property
    def policy(self) -> Policy:
        """Return how connections that are not handed off end."""
        return Policy(self.rate, self.deadline, self.then)


class Maint(Drain):
    """A drain after which the processes are stopped; nothing starts them again until an undrain."""

    verb = "maint"
    stops = True
