"""What a live migration was asked and remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from portfleet.core.operations import Work, named
from portfleet.core.records import Asked


@dataclass(frozen=True, kw_only=True)
class MigrateLive(Work):
    """Move the established connections of ``source`` to the instance of the same name on ``box``.

    ``box`` is what ssh understands, ``ssh`` the command used in its place ("" for ssh itself); ``asked``: what was
    asked of the source before it was drained. Remembered: how many have ``moved``, in how many ``seconds``.
    """

    verb = "migrate-live"
    source: str
    box: str
    ssh: str
    asked: Mapping[str, Asked]
    moved: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        named((self.source, self.box))
