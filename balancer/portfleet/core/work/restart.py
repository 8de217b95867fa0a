"""What a rolling restart was asked and remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from portfleet.core.operations import Work, named
from portfleet.core.records import Asked
from portfleet.core.typed import within


@dataclass(frozen=True, kw_only=True)
class Restart(Work):
    """Restart ``instances`` in this order, ``at_once`` at a time; ``asked`` is what was asked of them before.

    ``rate``: connections that cannot be handed off are closed so many a second, None: as the service says. Remembered:
    those that are ``done``, and how many connections were ``closed`` by daemons and ``reset``.
    """

    verb = "restart"
    instances: tuple[str, ...]
    at_once: int
    handoff: bool
    asked: Mapping[str, Asked]
    done: tuple[str, ...] = ()
    rate: int | None = None
    closed: int = 0
    reset: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        named(self.instances)
        within("at_once", self.at_once, 1)
