"""How full the maps are that remember where clients were. A full one forgets no client, and takes no new one either."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from portfleet.core.model import Fleet
from portfleet.dataplane.nft.doctor.nft_command import listed
from portfleet.doctor.finding import Finding, fine, warning


@dataclass(frozen=True)
class StickyFacts:
    """How many clients a service's map of one family (4, 6) remembers, of how many."""

    service: str
    family: int
    used: int
    size: int


def read(fleet: Fleet) -> list[StickyFacts]:
    """Read the maps of every service that has `sticky`."""
    found = []
    for service in fleet.services.values():
        for family in sorted(service.families) if service.sticky else ():
            name = f"sticky{family}-{service.sticky_size}-{service.name}"
            for entry in listed("map", "map", "inet", "portfleet", name):
                found.append(StickyFacts(service.name, family, len(entry.get("elem", ())), service.sticky_size))
    return found


def judge(facts: list[StickyFacts]) -> Iterator[Finding]:
    """Judge each map; 80 % is when there is still time."""
    for map in facts:
        about = f"sticky clients of {map.service}, IPv{map.family}"
        what = f"{map.used:,} of {map.size:,} places are taken"
        if 100 * map.used < 80 * map.size:
            yield fine(about, what)
        else:
            yield warning(
                about,
                what,
                why="a client that finds no place is not remembered, and moves when slots move",
                mend=f"set sticky_size = {2 * map.size} in [service.{map.service}], then: portfleet apply",
            )
