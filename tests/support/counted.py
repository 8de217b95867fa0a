"""Counts of connections, in which a probe of the watcher is one for the moment that it takes."""

from __future__ import annotations

from support.fleet_box import FleetBox
from support.sandbox import wait_for


def counted(box: FleetBox, total: int) -> dict[str, int]:
    """Return {instance: connections}, once ``status`` tells ``total`` of them."""

    def look() -> dict[str, int] | None:
        counts = {name: found["connections"] for name, found in box.status().items()}
        return counts if sum(counts.values()) == total else None

    return wait_for(f"{total} connections", look)


def said_at_last(box: FleetBox, words: str, *verb: str) -> None:
    """Run ``verb``, which must change nothing, until it says ``words``."""
    wait_for(words, lambda: words in box.portfleet(*verb).stderr)
