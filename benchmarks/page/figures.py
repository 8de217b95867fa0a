"""The plots of docs/benchmarks.md, as {file name: SVG}."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.page.results import NAMES, WAYS, Cell, Middle, beside, counts, designs, found, of_rounds, way
from benchmarks.page.svg import Bar, bars, lines

_COLOURS = {"fleet-ours": "c0", "fleet-c": "c2", "fleet-uvloop": "c1", "fleet-asyncio": "c3"}
_CROWD = (10_000, 150_000)


def figures() -> dict[str, str]:
    """Return every plot that there are results for."""
    return dict(_all())


def _all() -> Iterator[tuple[str, str]]:
    if found("peers", "speed"):
        for key, name, title, unit in (
            ("per_s", "peers-rate", "Requests and connects a second", "ratio to a direct connection, more is better"),
            ("p50", "peers-latency", "Median latency", "ratio to a direct connection, less is better"),
        ):
            yield f"{name}.svg", _peers(key, title, unit)
    if counts():
        yield "designs-p99.svg", _over_connections("p99")
        yield (
            "designs-cpu.svg",
            _per_design(
                "CPU for a request",
                "µs, kernel included; 5,000 requests/s; line: range of the rounds",
                lambda cell: of_rounds(cell, "cpu_us"),
            ),
        )
        yield (
            "designs-memory.svg",
            _per_design("Memory of a connection", "bytes: the process, and the kernel for both ends of it", _memory),
        )
        yield (
            "designs-slow.svg",
            _per_design(
                "Beside one client whose requests block for 50 ms",
                "share of the others' requests that took over 10 ms, %; less is better",
                lambda cell: _one(100 * cell["slow"]["over_10ms"]) if "slow" in cell else None,
            ),
        )
    drain = found("dataplane-scale", "drain")
    if drain:
        yield "scale-drain.svg", bars(
            f"Draining one of {4 * found('dataplane-scale', 'load', 'services'):,} instances",
            "ms, median; line: from the least to the 90th percentile",
            {"": [
                Bar(name, drain[key]["median"], drain[key]["least"], drain[key]["p90"], "c0")
                for name, key in (("in the kernel", "kernel_transaction_ms"), ("with libnftables",
                    "libnftables_and_kernel_ms"), ("read, decide, do", "read_decide_and_transaction_ms"))
                if key in drain
            ]},
        )  # fmt: skip


def _one(value: float) -> Middle:
    return Middle(value, value, value)


def _memory(cell: Cell) -> Middle | None:
    return _one(cell["memory"]["user"] + cell["memory"]["kernel_both_ends"]) if "memory" in cell else None


def _bar(name: str, colour: str, value: Middle) -> Bar:
    ranged = value.low != value.high
    return Bar(name, value.value, value.low if ranged else None, value.high if ranged else None, colour)


def _peers(key: str, title: str, unit: str) -> str:
    groups: dict[str, list[Bar]] = {}
    for load, title_of_load in (
        ("requests at 1", "requests, one connection"), ("requests at 50", "requests, 50 connections"),
        ("connects at 1", "connects, one at a time"), ("connects at 50", "connects, 50 at a time"),
    ):  # fmt: skip
        some = [(name, way(name, load, key)) for name in WAYS]
        groups[title_of_load] = [
            _bar(WAYS[name], "c0" if name == "portfleet" else "other", value) for name, value in some if value
        ]
    return bars(title, f"{unit}; line: range of the rounds", groups)


def _over_connections(key: str) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for number in counts():
        for name, cell in designs(number).items():
            value = beside(cell, key)
            if value:
                series.setdefault(NAMES[name], []).append((float(number), value.value))
    colours = {NAMES[name]: colour for name, colour in _COLOURS.items()}
    return lines(
        "p99 of 5,000 requests/s by established connections, 1 % of them active",
        "ratio to one epoll loop in C with 50 connections, measured in the same seconds; less is better",
        "established connections", series, colours,
    )  # fmt: skip


def _per_design(title: str, unit: str, of: Callable[[Cell], Middle | None]) -> str:
    groups = {}
    for number in _CROWD:
        some = [(name, of(cell)) for name, cell in designs(number).items()]
        made = [_bar(NAMES[name], _COLOURS.get(name, "other"), value) for name, value in some if value]
        if made:
            groups[f"{number:,} connections"] = made
    return bars(title, unit, groups)
