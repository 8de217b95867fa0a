"""What a cutover was asked and remembers, and one back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from portfleet.core.canary import Canary, CanaryStart
from portfleet.core.model import Colour
from portfleet.core.operations import Work
from portfleet.core.records import Asked, ColourRecord
from portfleet.core.typed import within


@dataclass(frozen=True, kw_only=True)
class Cutover(Work):
    """Make ``colour`` live. ``before``: what it ran until now; ``asked``: what was asked of its instances.

    ``fresh``: its processes are started anew even if they run already; ``keep``: for how many seconds the old colour is
    kept; ``insist``: nothing is done if ``handoff`` is not possible. Remembered: the canary's ``step`` and
    ``canary_from``, ``took`` ({phase: seconds}), in words what ``moved``, and how many connections are ``left`` with
    the old colour.
    """

    verb = "cutover"
    colour: Colour
    before: ColourRecord | None
    fresh: bool
    asked: Mapping[str, Asked]
    config_release: str | None
    config_release_before: str | None
    keep: float
    handoff: bool
    canary: Canary | None
    insist: bool = False
    step: int = 0
    canary_from: CanaryStart | None = None
    took: Mapping[str, float] = field(default_factory=dict)
    moved: str = ""
    left: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        within("keep", self.keep, 0)
        within("step", self.step, 0)


class Rollback(Cutover):
    """A cutover to the other colour with the release that it ran before."""

    verb = "rollback"
