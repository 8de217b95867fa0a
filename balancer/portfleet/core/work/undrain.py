"""What an undrain was asked."""

from __future__ import annotations

from dataclasses import dataclass

from portfleet.core.operations import Work, named


@dataclass(frozen=True, kw_only=True)
class Undrain(Work):
    """Let ``instances`` serve again."""

    verb = "undrain"
    instances: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        named(self.instances)
