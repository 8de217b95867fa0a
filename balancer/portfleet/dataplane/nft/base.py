"""The fixed part of our table, which stands whatever the services are."""

from __future__ import annotations

from dataclasses import dataclass

#: Its chains.
FIXED = frozenset(
    {"prerouting", "output", "dialled", "postrouting", "guard", "admit"}
    | {"midway_in", "midway_out", "lost_in", "lost_out", "lost"}
)


@dataclass(frozen=True)
class SetBase:
    """The chains of the fixed part, for the fleet whose identity is ``home``."""

    home: str
