"""What a migration was asked and remembers."""

from __future__ import annotations

from dataclasses import dataclass

from portfleet.core.operations import Work, named
from portfleet.core.records import Moved
from portfleet.core.typed import within


@dataclass(frozen=True, kw_only=True)
class Migrate(Work):
    """Move connections from ``source`` to ``to`` (instances), ``percent`` of them; whose share moves is ``member``.

    ``share`` says in words what holds then; ``before``: where the share was migrated until now. Remembered: ``count``,
    how many connections are to move.
    """

    verb = "migrate"
    source: str
    member: str
    to: str
    percent: int
    handoff: bool
    share: str
    before: Moved | None
    count: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        named((self.source, self.to, self.member))
        within("percent", self.percent, 0, 100)
