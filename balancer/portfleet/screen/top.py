"""The screen of `top`: per service a line of sums and a table of instances, the busiest first."""

from __future__ import annotations

from typing import Any

from portfleet.core.states import State
from portfleet.screen.output import paint, redraw, table
from portfleet.store.clock import now

_HEAD = ("  INSTANCE", "STATE", "SLOTS", "CONNS", "NEW/S", "REQ/S", "P50", "P99", "CPU", "MEMORY")
_BUSY, _FULL = 70, 90  # per cent of a processor


def show(services: list[dict[str, Any]], every: float, *, screen: bool) -> None:
    """Print one interval of ``every`` seconds; on a ``screen`` over the one before, as far as its height goes."""
    lines = [paint(f"{now()}  every {every:g} s", "dim")]
    for service in services:
        lines += ["", *_lines(service)]
    if not screen:
        print("\n".join([*lines, ""]), flush=True)
        return
    redraw(lines, more="portfleet top SERVICE, or a higher terminal")


def _lines(service: dict[str, Any]) -> list[str]:
    entries = sorted(service["instances"], key=lambda entry: -(entry["rates"] or {}).get("cpu", -1))
    found = [entry["rates"] for entry in entries if entry["rates"]]
    sums = [sum(one[key] or 0 for one in found) for key in ("accepts", "requests")]
    connections = sum(entry["connections"] for entry in entries)
    told = f"down by {service['down']}" if service["down"] else f"live {service['live']}"
    first = f"{paint(service['name'], 'bold')}  {told}  {connections:,} connections"
    if any(one["requests"] is not None for one in found):
        first += f"  {sums[0]:,.0f} new/s  {sums[1]:,.0f} requests/s"
    rows = [_row(entry) for entry in entries]
    if not rows:
        return [first]
    head, *body = table(_HEAD, rows, right=range(2, len(_HEAD)))
    colours = map(_colour, entries)
    return [first, paint(head, "dim"), *(paint(line, c) if c else line for line, c in zip(body, colours, strict=True))]


def _colour(entry: dict[str, Any]) -> str:
    cpu = entry["rates"]["cpu"] if entry["rates"] else 0
    if cpu >= _FULL or entry["state"] in (State.FAILED, State.EJECTED):
        return "red"
    return "yellow" if cpu >= _BUSY else ""


def _row(entry: dict[str, Any]) -> list[str]:
    found = entry["rates"] or {}
    cells = [
        _cell(found.get("accepts"), "{:,.0f}"),
        _cell(found.get("requests"), "{:,.0f}"),
        _time(found.get("p50")),
        _time(found.get("p99")),
        _cell(found.get("cpu"), "{:.0f} %"),
        _cell(found.get("memory"), "{:,.0f} MB", unit=1e6),
    ]
    return [f"  {entry['name']}", entry["state"], f"{entry['slots']:,}", f"{entry['connections']:,}", *cells]


def _cell(value: float | None, form: str, *, unit: float = 1) -> str:
    return "-" if value is None else form.format(value / unit)


def _time(microseconds: float | None) -> str:
    if microseconds is not None and microseconds >= 1000:
        return f"{microseconds / 1000:,.1f} ms"
    return _cell(microseconds, "{:.0f} µs")
