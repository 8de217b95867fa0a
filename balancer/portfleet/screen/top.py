"""The screen of `top`: per service a line of sums and a table of instances, sorted and filtered as its reader asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from portfleet.core.printable import quantity
from portfleet.core.states import State
from portfleet.screen.output import filled, fitting, paint, redraw
from portfleet.store.clock import now

_BUSY, _FULL = 70, 90  # per cent of a processor
_BARS = "▁▂▃▄▅▆▇█"
#: Intervals that a sparkline shows.
SPARKS = 12

Entry = Mapping[str, Any]


@dataclass
class View:
    """How the reader wants to see it. ``line`` is the last line: a question, what came of an answer, or the keys."""

    sort: str = "cpu"
    filter: str = ""
    selected: str = ""
    line: str = ""
    #: What each instance did in the last intervals: requests a second if it counts them, otherwise bytes.
    past: dict[str, list[float]] = field(default_factory=dict)


class Column(NamedTuple):
    """A column: how its cell and its place in the order are made. ``rank``: those with the least go if it is narrow.

    ``least`` is its width in characters when its numbers are short: with them it is not to become narrower.
    """

    head: str
    cell: Callable[[Entry, View], str]
    order: Callable[[Entry], Any]
    rank: int = 9
    least: int = 0


def _rate(key: str) -> Callable[[Entry], float]:
    return lambda entry: -((entry["rates"] or {}).get(key) or 0.0)


def _shown(key: str, form: str, *, unit: float = 1) -> Callable[[Entry, View], str]:
    return lambda entry, _: _cell((entry["rates"] or {}).get(key), form, unit=unit)


#: What can be sorted by, in the order of the screen.
COLUMNS = {
    "name": Column("  INSTANCE", lambda e, v: ("> " if e["name"] == v.selected else "  ") + e["name"],
                   lambda e: _natural(e["name"])),
    "state": Column("STATE", lambda e, _: e["state"], lambda e: e["state"], least=8),
    "slots": Column("SLOTS", lambda e, _: f"{e['slots']:,}", lambda e: -e["slots"], 4),
    "connections": Column("CONNS", lambda e, _: f"{e['connections']:,}", lambda e: -e["connections"], least=6),
    "new": Column("NEW/S", _shown("accepts", "{:,.0f}"), _rate("accepts"), 7),
    "requests": Column("REQ/S", _shown("requests", "{:,.0f}"), _rate("requests"), 8, 6),
    "in": Column("IN/S", lambda e, _: _bytes((e["rates"] or {}).get("bytes_in")), _rate("bytes_in"), 5, 6),
    "out": Column("OUT/S", lambda e, _: _bytes((e["rates"] or {}).get("bytes_out")), _rate("bytes_out"), 5, 6),
    "p50": Column("P50", lambda e, _: _time((e["rates"] or {}).get("p50")), _rate("p50"), 2, 7),
    "p99": Column("P99", lambda e, _: _time((e["rates"] or {}).get("p99")), _rate("p99"), 6, 7),
    "cpu": Column("CPU", _shown("cpu", "{:.0f} %"), _rate("cpu"), least=5),
    "memory": Column("MEMORY", _shown("memory", "{:,.0f} MB", unit=1e6), _rate("memory"), 1),
    "past": Column("LAST", lambda e, v: spark(v.past.get(e["name"], ())), lambda e: _natural(e["name"]), 3, SPARKS),
}  # fmt: skip
#: What only daemons tell that count their requests.
_OF_REQUESTS = ("requests", "p50", "p99")
SORTS = tuple(name for name in COLUMNS if name != "past")


def show(services: list[dict[str, Any]], every: float, *, screen: bool, view: View | None = None) -> None:
    """Print one interval of ``every`` seconds; on a ``screen`` over the one before, as far as its size goes."""
    view = view or View()
    width = shutil.get_terminal_size().columns if screen else None
    lines = [paint(f"{now()}  every {every:g} s  sorted by {view.sort}" + _filtered(view), "dim")]
    shown = [chosen(service, view) for service in services]
    head, *rows = _fitting([entry for entries in shown for entry in entries], view, width)
    for service, entries in zip(services, shown, strict=True):
        if view.filter and not entries:
            continue
        mine, rows = rows[: len(entries)], rows[len(entries) :]
        lines += ["", _sums(service)] + [paint(head, "dim")] * bool(mine)
        lines += [paint(row, c) if (c := _colour(entry)) else row for entry, row in zip(entries, mine, strict=True)]
    if not screen:
        print("\n".join([*lines, ""]), flush=True)
        return
    said = [row for line in view.line.splitlines() for row in filled(line, width or 80).splitlines()]
    redraw([*said, *lines], more="portfleet top SERVICE, or a higher terminal")


def chosen(service: Mapping[str, Any], view: View) -> list[Entry]:
    """Return a service's instances that are shown, in their order."""
    found = [entry for entry in service["instances"] if view.filter in entry["name"] or view.filter in entry["state"]]
    return sorted(found, key=lambda entry: (COLUMNS[view.sort].order(entry), _natural(entry["name"])))


def spark(values: Sequence[float]) -> str:
    """Return a bar a value, the highest of them full."""
    most = max(values, default=0.0)
    return "".join(_BARS[min(7, int(8 * value / most))] if most else _BARS[0] for value in values)


def remember(past: dict[str, list[float]], services: Sequence[Mapping[str, Any]]) -> None:
    """Add an interval to what the sparklines show."""
    for service in services:
        for entry in service["instances"]:
            found = entry["rates"] or {}
            value = found.get("requests")
            if value is None:
                value = (found.get("bytes_in") or 0.0) + (found.get("bytes_out") or 0.0)
            past[entry["name"]] = [*past.get(entry["name"], []), value][-SPARKS:]


def _sums(service: dict[str, Any]) -> str:
    """Return the line of a service: what all of its instances do."""
    name = paint(service["name"], "bold")
    if service["down"]:
        return f"{name}  down by {service['down']}"
    connections = sum(entry["connections"] for entry in service["instances"])
    first = f"{name}  live {service['live']}  {quantity(connections, 'connection')}"
    rates = [entry["rates"] for entry in service["instances"] if entry["rates"]]
    for key, unit in (("accepts", "new/s"), ("requests", "requests/s")):
        known = [one[key] for one in rates if one[key] is not None]
        first += f"  {sum(known):,.0f} {unit}" * bool(known)
    return first


def _fitting(entries: Sequence[Entry], view: View, width: int | None) -> list[str]:
    """Lay out the columns that fit ``width``; without those that none of ``entries`` has anything for.

    All services have one layout, and it does not follow each number: what is looked for is always at its place.
    """
    counted = any(entry["rates"] and entry["rates"]["requests"] is not None for entry in entries)
    none = {*(() if counted else _OF_REQUESTS), *(() if view.past else ("past",))}
    columns = [column for name, column in COLUMNS.items() if name not in none]
    rows = [[column.cell(entry, view) for column in columns] for entry in entries]
    spare = sorted((column.rank, place) for place, column in enumerate(columns) if column.rank < 9)
    right = range(2, len(columns) - bool(view.past))
    heads = [c.head.rjust(c.least) if place in right else c.head.ljust(c.least) for place, c in enumerate(columns)]
    return fitting(heads, rows, right=right, spare=[place for _, place in spare], width=width)


def _colour(entry: Entry) -> str:
    cpu = entry["rates"]["cpu"] if entry["rates"] else 0
    if cpu >= _FULL or entry["state"] in (State.FAILED, State.EJECTED):
        return "red"
    return "yellow" if cpu >= _BUSY else ""


def _natural(name: str) -> tuple[str, int]:
    """Return a name's place in an order in which echo-blue-10 comes after echo-blue-9."""
    head, _, number = name.rpartition("-")
    return head, int(number) if number.isdigit() else 0


def _filtered(view: View) -> str:
    return f"  only {view.filter!r}" if view.filter else ""


def _cell(value: float | None, form: str, *, unit: float = 1) -> str:
    return "-" if value is None else form.format(value / unit)


def _time(microseconds: float | None) -> str:
    if microseconds is not None and microseconds >= 1000:
        return f"{microseconds / 1000:,.1f} ms"
    return _cell(microseconds, "{:.0f} µs")


def _bytes(count: float | None) -> str:
    if count is not None and count >= 1e6:
        return f"{count / 1e6:,.1f} MB"
    return _cell(count, "{:.0f} kB", unit=1e3) if count is not None and count >= 1e3 else _cell(count, "{:.0f} B")
