"""The result files as values: every number that a page tells is read here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.lib.sizing import compared

TOP = Path(__file__).resolve().parents[2]
RESULTS = TOP / "benchmarks/results"
NAMES = {
    "threads": "thread per connection",
    "prefork": "pre-forked pool",
    "libevent": "libevent, one loop",
    "acceptor": "acceptor + loops",
    "workers": "epoll + worker pool",
    "reuseport": "SO_REUSEPORT processes",
    "fleet-c": "portfleet, C",
    "fleet-ours": "portfleet, its daemon",
    "fleet-uvloop": "portfleet, uvloop",
    "fleet-asyncio": "portfleet, asyncio",
}
WAYS = {"direct": "direct", "portfleet": "portfleet", "iptables": "iptables", "haproxy": "HAProxy", "nginx": "nginx"}
Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Middle:
    """The median over rounds with their range."""

    value: float
    low: float
    high: float


@cache
def read(name: str) -> Any:
    """Return a result file; empty if it was not measured yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def found(name: str, *keys: str) -> Any:
    """Return a value of a result file, None if it is not there."""
    value = read(name)
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def middle(values: list[float]) -> Middle:
    """Return the median with the range."""
    return Middle(median(values), min(values), max(values))


def designs(connections: int) -> dict[str, Cell]:
    """Return the parts that were measured with so many connections, those left out included, in the pages' order."""
    there = found("designs", str(connections)) or {}
    return {name: there[name] for name in NAMES if name in there}


def counts() -> list[int]:
    """Return for how many connections designs were measured."""
    return sorted(int(key) for key in read("designs"))


def of_rounds(cell: Cell, key: str) -> Middle | None:
    """Return a design's value, None where it was left out."""
    return middle([one["design"][key] for one in cell["rounds"]]) if "rounds" in cell else None


def beside(cell: Cell, key: str) -> Middle | None:
    """Return a design's value as a ratio to the reference of the same round, None where it was left out."""
    if "rounds" not in cell:
        return None
    return middle([one["design"][key] / one["reference"][key] for one in cell["rounds"]])


def way(name: str, load: str, key: str) -> Middle | None:
    """Return what a way of the peers had for a load, as a ratio to the direct one in the same round."""
    mine, direct = (found("peers", "speed", one, "rounds", load) for one in (name, "direct"))
    if not mine or not direct:
        return None
    return middle([turn[key] / base[key] for turn, base in zip(mine, direct, strict=True)])


def over_rounds(part: str, name: str, key: str, of: Callable[[list[float]], float] = median) -> float | None:
    """Return one value of a way's releases or kills: the median of the rounds, or what `of` makes of them."""
    rounds = found("peers", part, name, "rounds")
    return of([one[key] for one in rounds]) if rounds else None


def sized() -> dict[int, dict[str, tuple[float, float]]]:
    """Return {connections: {what: (computed, measured)}} for the fleet of our daemon."""
    made = {}
    for number in counts():
        cell = found("designs", str(number), "fleet-ours")
        if cell and number >= 10_000:
            made[number] = compared(cell, number)
    return made
