"""The fixed part of our table, which stands whatever the services are."""

from __future__ import annotations

from portfleet.core.value import value

#: Its chains.
FIXED = frozenset(
    {"prerouting", "output", "dialled", "postrouting", "guard", "admit"}
    | {"midway_in", "midway_out", "lost_in", "lost_out", "lost"}
)


@value
class SetBase:
    """The chains of the fixed part, for the fleet whose identity is ``home``."""

    home: str
