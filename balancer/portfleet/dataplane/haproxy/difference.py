"""A transaction for people: what it changes of HAProxy's files."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from portfleet.dataplane.haproxy import text
from portfleet.dataplane.haproxy.state import State
from portfleet.dataplane.haproxy.text import Place


def difference(before: State, now: State, place: Place) -> str:
    """Return the lines that come and go in each file, as ``diff`` marks them."""
    old, new = _files(before, place), _files(now, place)
    return "".join(_changed(name, old.get(name, ""), new.get(name, "")) for name in sorted(old.keys() | new.keys()))


def _files(state: State, place: Place) -> dict[str, str]:
    found = {place.config(1).name: text.process_text(state, place, 1)} if state.fleet else {}
    for name, unit in state.units.items():
        found[f"{name}.cfg"] = text.service_text(name, unit, place)
        found |= {f"{name}.{kind}": text.map_text(entries) for kind, entries in text.maps(unit, place).items()}
    return found


def _changed(name: str, old: str, new: str) -> str:
    return "".join(_lines(name, old, new)) if old != new else ""


def _lines(name: str, old: str, new: str) -> Iterator[str]:
    yield f"{name}:\n"
    for line in difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""):
        if not line.startswith(("---", "+++", "@@")):
            yield f"  {line}\n"
