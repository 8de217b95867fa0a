"""What a change of the number of instances was asked and remembers."""

from __future__ import annotations

from dataclasses import dataclass

from portfleet.core.operations import Work
from portfleet.core.typed import within


@dataclass(frozen=True, kw_only=True)
class Scale(Work):
    """Run ``to`` instances a colour in place of ``before``; remembered: in ``words`` what became of connections."""

    verb = "scale"
    before: int
    to: int
    handoff: bool
    words: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("before", self.before, 1)
        within("to", self.to, 1)
