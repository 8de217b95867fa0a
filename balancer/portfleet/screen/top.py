"""The screen of `top`: per service a line of sums and a table of instances, sorted and filtered as its reader asks."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from portfleet.core.states import State
from portfleet.screen.output import fitting, paint, redraw
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
    """A column: how its cell and its place in the order are made. ``rank``: those with the least go if it is narrow."""

    head: str
    cell: Callable[[Entry, View], str]
    order: Callable[[Entry], Any]
    rank: int = 9


def _rate(key: str) -> Callable[[Entry], float]:
    return lambda entry: -((entry["rates"] or {}).get(key) or 0.0)


def _shown(key: str, form: str, *, unit: float = 1) -> Callable[[Entry, View], str]:
    return lambda entry, _: _cell((entry["rates"] or {}).get(key), form, unit=unit)


#: What can be sorted by, in the order of the screen.
COLUMNS = {
    "name": Column("  INSTANCE", lambda e, v: ("> " if e["name"] == v.selected else "  ") + e["name"],
                   lambda e: _natural(e["name"])),
    "state": Column("STATE", lambda e, _: e["state"], lambda e: e["state"]),
    "slots": Column("SLOTS", lambda e, _: f"{e['slots']:,}", lambda e: -e["slots"], 4),
    "connections": Column("CONNS", lambda e, _: f"{e['connections']:,}", lambda e: -e["connections"]),
    "new": Column("NEW/S", _shown("accepts", "{:,.0f}"), _rate("accepts"), 7),
    "requests": Column("REQ/S", _shown("requests", "{:,.0f}"), _rate("requests"), 8),
    "in": Column("IN/S", lambda e, _: _bytes((e["rates"] or {}).get("bytes_in")), _rate("bytes_in"), 5),
    "out": Column("OUT/S", lambda e, _: _bytes((e["rates"] or {}).get("bytes_out")), _rate("bytes_out"), 5),
    "p50": Column("P50", lambda e, _: _time((e["rates"] or {}).get("p50")), _rate("p50"), 3),
    "p99": Column("P99", lambda e, _: _time((e["rates"] or {}).get("p99")), _rate("p99"), 6),
    "cpu": Column("CPU", _shown("cpu", "{:.0f} %"), _rate("cpu")),
    "memory": Column("MEMORY", _shown("memory", "{:,.0f} MB", unit=1e6), _rate("memory"), 2),
    "past": Column("LAST", lambda e, v: spark(v.past.get(e["name"], ())), lambda e: _natural(e["name"]), 1),
}  # fmt: skip
SORTS = tuple(name for name in COLUMNS if name != "past")


def show(services: list[dict[str, Any]], every: float, *, screen: bool, view: View | None = None) -> None:
    """Print one interval of ``every`` seconds; on a ``screen`` over the one before, as far as its size goes."""
    view = view or View()
    width = shutil.get_terminal_size().columns if screen else None
    lines = [paint(f"{now()}  every {every:g} s  sorted by {view.sort}" + _filtered(view), "dim")]
    for service in services:
        lines += ["", *_lines(service, view, width)]
    if not screen:
        print("\n".join([*lines, ""]), flush=True)
        return
    said = [row for line in view.line.splitlines() for row in textwrap.wrap(line, width or 80)]
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


def _lines(service: dict[str, Any], view: View, width: int | None) -> list[str]:
    entries = chosen(service, view)
    found = [entry["rates"] for entry in service["instances"] if entry["rates"]]
    sums = [sum(one[key] or 0 for one in found) for key in ("accepts", "requests")]
    connections = sum(entry["connections"] for entry in service["instances"])
    told = f"down by {service['down']}" if service["down"] else f"live {service['live']}"
    first = f"{paint(service['name'], 'bold')}  {told}  {connections:,} connections"
    if any(one["requests"] is not None for one in found):
        first += f"  {sums[0]:,.0f} new/s  {sums[1]:,.0f} requests/s"
    if not entries:
        return [first]
    head, *body = _fitting(entries, view, width)
    colours = map(_colour, entries)
    return [first, paint(head, "dim"), *(paint(line, c) if c else line for line, c in zip(body, colours, strict=True))]


def _fitting(entries: Sequence[Entry], view: View, width: int | None) -> list[str]:
    """Lay out the columns that fit ``width``; the sparkline only if there is anything in it."""
    columns = [column for name, column in COLUMNS.items() if name != "past" or view.past]
    rows = [[column.cell(entry, view) for column in columns] for entry in entries]
    spare = sorted((column.rank, place) for place, column in enumerate(columns) if column.rank < 9)
    right = range(2, len(columns) - bool(view.past))
    return fitting([c.head for c in columns], rows, right=right, spare=[place for _, place in spare], width=width)


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
