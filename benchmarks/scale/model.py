"""What is known of one box, and the arithmetic of many: 10 million connections over 1, 3, 10 and 100 boxes.

The tables are the product's own (`portfleet.core.forwarding`). What a box holds, and how fast
connections move, was measured on one pair of boxes (docs/sizing.md, docs/ha.md); how many boxes do was not: everything
that is multiplied from there on is a calculation.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from portfleet.core.forwarding import ways
from portfleet.core.policies import Forward
from portfleet.core.slots import Table, count, moves

CONNECTIONS = 10_000_000
BOXES = (1, 3, 10, 100)
SLOTS = (4_096, 65_536)
#: What one box is built for (docs/limits.md); kernel memory of a connection and its conntrack entry (docs/sizing.md).
PER_BOX, BYTES = 150_000, 3_900 + 250
#: Connections a second that `evacuate` moves: the slower and the faster of two instances (1,939 and 2,061 connections
#: that ask every 2 s, two processors with a load of 5), and what the processors' share of it alone would allow, 150 µs
#: at the one end and then 130 µs at the other (docs/ha.md).
RATES = {"slow": 249, "fast": 505, "processors": round(1e6 / (150 + 130))}
#: An assumption, to be scaled: requests a second of a connection, packets in for each, bytes of these on the wire.
REQUESTS, PACKETS_IN, BYTES_IN = 0.1, 2, 2 * 66 + 100
#: Uneven clients: sources, the exponent of how many connections each has (Pareto), and the most that one can have to an
#: address and port, by its ports. The median of so many draws is told.
SOURCES, EXPONENT, MOST_OF_SOURCE, DRAWS = 50_000, 1.2, 64_512, 5
#: Size of Maglev's table: the smaller of its paper (Eisenbud et al., NSDI 2016), a prime.
MAGLEV = 65_537


@dataclass(frozen=True)
class Spread:
    """How ``slots`` slots share out over ``boxes``, and the fullest box's connections over the mean.

    ``even``: each connection has a slot of its own; ``uneven``: all of a source's have the same.
    """

    boxes: int
    slots: int
    fewest: int
    most: int
    even: float
    uneven: float


@dataclass(frozen=True)
class Loss:
    """Shares of the table that move when one of ``boxes`` is lost: of the lost box, and of others without need."""

    boxes: int
    own: float
    others: float
    maglev_others: float
    modulo_others: float


@dataclass(frozen=True)
class Box:
    """What one of ``boxes`` holds: ``connections``, kernel memory in GB, and times as many as it is built for."""

    boxes: int
    connections: int
    gigabytes: float
    times: float
    evacuation: Mapping[str, float]  #: seconds to empty it to another, by rate; nothing if there is none


@dataclass(frozen=True)
class Network:
    """What one box forwards to others: its ``share`` of what comes in, packets and Mbit a second (in = out)."""

    boxes: int
    share: float
    packets: float
    megabits: float


def spread(boxes: int, slots: int, *, seed: int) -> Spread:
    """Return how even ``boxes`` are; ``seed`` decides where clients fall."""
    points = table(boxes, slots)
    held = count(points)
    chance = random.Random(f"{seed} {boxes} {slots}")
    mean = CONNECTIONS / slots
    even = [chance.gauss(mean, mean**0.5) for _ in range(slots)]  # a binomial of so many is a normal one
    uneven = median(_fullest(points, _by_sources(slots, chance)) for _ in range(DRAWS))
    return Spread(boxes, slots, min(held.values()), max(held.values()), _fullest(points, even), uneven)


def loss(boxes: int, slots: int) -> Loss | None:
    """Return what moves when one of ``boxes`` is lost; None if there is no other."""
    if boxes == 1:
        return None
    home, gone = table(boxes, slots), names(boxes)[boxes // 2]
    moved = moves(home, table(boxes, slots, out=(gone,)))
    own = sum(old == gone for old, _ in moved.values())
    maglev, after = maglev_table(names(boxes)), maglev_table([name for name in names(boxes) if name != gone])
    disturbed = sum(old not in (new, gone) for old, new in zip(maglev, after, strict=True))
    keys = range(boxes * (boxes - 1))  # a period of both remainders
    modulo = sum(key % boxes not in (boxes - 1, key % (boxes - 1)) for key in keys)
    return Loss(boxes, own / slots, (len(moved) - own) / slots, disturbed / MAGLEV, modulo / len(keys))


def box(boxes: int) -> Box:
    """Return what one box holds, and how long it takes to empty it."""
    held = CONNECTIONS // boxes
    evacuation = {name: held / rate for name, rate in RATES.items()} if boxes > 1 else {}
    return Box(boxes, held, held * BYTES / 1e9, held / PER_BOX, evacuation)


def network(boxes: int) -> Network:
    """Return what one box forwards if routers send each packet to any box, and its slot is at another with (n-1)/n."""
    share = (boxes - 1) / boxes
    packets = CONNECTIONS * REQUESTS * PACKETS_IN / boxes * share
    return Network(boxes, share, packets, CONNECTIONS * REQUESTS * BYTES_IN * 8 / boxes * share / 1e6)


def names(boxes: int) -> list[str]:
    """Return the names of as many boxes."""
    return [f"box{number}" for number in range(1, boxes + 1)]


def table(boxes: int, slots: int, *, out: tuple[str, ...] = ()) -> Table:
    """Return the boxes' slots, as `portfleet forward` has them with some ``out``."""
    return ways(Forward(boxes=dict.fromkeys(names(boxes), ()), out=out, slots=slots))


def maglev_table(members: Sequence[str]) -> list[str]:
    """Return Maglev's lookup table: each member in turn takes the next free place of its own permutation."""
    starts = [_number(f"{name} offset") % MAGLEV for name in members]
    skips = [_number(f"{name} skip") % (MAGLEV - 1) + 1 for name in members]
    table: list[str | None] = [None] * MAGLEV
    filled = 0
    while True:
        for at, name in enumerate(members):
            while table[starts[at]] is not None:
                starts[at] = (starts[at] + skips[at]) % MAGLEV
            table[starts[at]] = name
            filled += 1
            if filled == MAGLEV:
                return [name for name in table if name is not None]


def _by_sources(slots: int, chance: random.Random) -> list[float]:
    """Return how many connections each slot has if all of a source's have the same."""
    load, scale = [0.0] * slots, CONNECTIONS / SOURCES * (EXPONENT - 1) / EXPONENT
    for _ in range(SOURCES):
        load[chance.randrange(slots)] += min(MOST_OF_SOURCE, scale * chance.paretovariate(EXPONENT))
    return load


def _fullest(table: Sequence[str | None], load: Sequence[float]) -> float:
    """Return the load of the fullest member over the mean."""
    found: dict[str | None, float] = {}
    for owner, one in zip(table, load, strict=True):
        found[owner] = found.get(owner, 0.0) + one
    return max(found.values()) * len(found) / sum(found.values())


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
