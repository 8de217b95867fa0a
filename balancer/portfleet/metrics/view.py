"""What the page shows, as values: services with their colours and instances, each number as the text that stands there.

What changes from one moment to the next are *cells*: {id of an element: text}. The page is written with them, and what
is sent to an open page are those that differ.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from portfleet.core.printable import quantity
from portfleet.core.states import State
from portfleet.metrics.ask import Entry
from portfleet.metrics.families import canary_requests
from portfleet.metrics.history import History
from portfleet.metrics.look import Look

#: The size of a sparkline in its own units; the page scales it.
WIDTH, HEIGHT = 60, 16
#: Which states are well, which are asked for, and which are wrong.
_GOOD = {State.READY}
_BAD = {State.FAILED, State.EJECTED}


@dataclass
class View:
    """The page: ``services`` for its structure, ``cells`` for its numbers, ``lines`` for its sparklines, by id.

    ``name`` is that of the moment: an open page tells by it how old it is.
    """

    name: str
    services: list[Entry] = field(default_factory=list)
    cells: dict[str, str] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    warnings: Sequence[Entry] = ()
    version: str = ""
    takes_orders: bool = False

    @property
    def structure(self) -> tuple[Any, ...]:
        """What has to be the same for a page that is open to be brought up to date by cells alone."""
        found = [
            (one["name"], one["down"], [(c["colour"], c["role"], c["release"]) for c in one["colours"]],
             [i["name"] for i in one["instances"]],
             one["operation"] and one["operation"]["number"], one["live"], one["well"])
            for one in self.services
        ]  # fmt: skip
        return tuple(map(repr, found)), self.trouble, self.takes_orders, tuple(one["name"] for one in self.warnings)


def view(look: Look, history: History, *, now: float | None = None) -> View:
    """Return the page of a look."""
    at = time.time() if now is None else now
    made = View(f"{look.at:.3f}", trouble=look.trouble)
    if look.told is not None:
        made.warnings, made.version = look.told.fleet["warnings"], look.told.fleet["version"]
        made.takes_orders = look.told.fleet.get("takes_orders", False)  # a watcher of before
        made.services = [_Service(one, look, history, made, at).entry() for one in look.services]
    made.cells["at"] = datetime.fromtimestamp(look.at, UTC).strftime("%H:%M:%S")
    return made


def points(values: Sequence[float | None], most: float) -> str:
    """Return the points of a polyline that ends at the right; if nothing is known the line lies at the bottom."""
    first = WIDTH - len(values) + 1
    return " ".join(
        f"{first + number},{HEIGHT - 1 - round((HEIGHT - 2) * (value or 0) / (most or 1))}"
        for number, value in enumerate(values)
    )


@dataclass(frozen=True)
class _Service:
    """Writes the cells of one service into ``made``, as it is at the Unix time ``at``."""

    service: Entry
    look: Look
    history: History
    made: View
    at: float

    def entry(self) -> Entry:
        """Return what does not change while the structure is the same."""
        name, found, look = self.service["name"], self.look.of(self.service["name"]), self.look
        serving = sum(one["serving"] for one in found)
        total = sum(look.connections.get(one["name"], 0) for one in found)
        self._cells(name, {
            "serving": f"{serving} of {len(found)} serving",
            "connections": quantity(total, "connection"),
        })  # fmt: skip
        colours = dict.fromkeys(one["colour"] for one in found)
        return self.service | {
            "instances": [self._instance(one) for one in found],
            "well": serving > 0 and not any(one["state"] in _BAD for one in found),
            "colours": [self._colour(colour, [one for one in found if one["colour"] == colour]) for colour in colours],
            "operation": self._operation(found),
        }

    def _instance(self, one: Entry) -> Entry:
        name = one["name"]
        rate, connections = self.history.rate(name), self.look.connections.get(name)
        self._cells(name, {
            "state": one["state"],
            "since": _age(one["since"], self.at),
            "slots": f"{one['slots']:,}",
            "connections": "–" if connections is None else f"{connections:,}",
            "rate": "–" if rate is None else f"{rate:,.0f}",
            "why": one["why"] or "",
        })  # fmt: skip
        for kind, values in zip(("connections", "rate"), self.history.lines(name), strict=True):
            known = [value for value in values if value is not None]
            self.made.lines[f"{name}.{kind}-line"] = points(values, max(known, default=0)) if known else ""
        return {"name": name, "tone": tone(one["state"]), "most": self.service["slots"], "slots": one["slots"]}

    def _colour(self, colour: str | None, mine: Sequence[Entry]) -> Entry:
        service, shown = self.service, colour or "remote"
        counted, seconds = self.history.counted(service["name"], colour)
        told = any(one["said"] and one["said"]["requests"] is not None for one in mine) and seconds > 0
        p99 = counted.quantile(0.99)
        ran = service["colours"].get(colour) or {"release": None, "since": None}
        self._cells(f"{service['name']}.{shown}", {
            "share": f"{100 * sum(one['slots'] for one in mine) / service['slots']:.1f} %",
            "serving": f"{sum(one['serving'] for one in mine)} of {len(mine)}",
            "connections": f"{sum(self.look.connections.get(one['name'], 0) for one in mine):,}",
            "rate": f"{counted.requests / seconds:,.0f}" if told else "–",
            "errors": f"{counted.error_share:.2f} %" if told else "–",
            "p99": _latency(p99) if told and p99 else "–",
            "since": _age(ran["since"], self.at),
        })  # fmt: skip
        role = "live" if colour == service["live"] else "canary" if service["canary"] else "idle"
        return {"colour": shown, "role": "" if colour is None else role, "release": ran["release"]}

    def _operation(self, found: Iterable[Entry]) -> Entry | None:
        operation: Entry | None = self.service["operation"]
        if operation is None:
            return None
        done, total = operation["done"], operation["total"]
        words = [operation["phase"] + (f": {done:,} of {total:,}" if total else "")]
        words += [operation["note"]] if operation["note"] else []
        words += [f"is being undone: {operation['failed']}"] if operation["failed"] else []
        if canary := operation["canary"]:
            seen = canary_requests(canary, found)
            words += [
                f"{canary['percent']} % of the slots",
                f"{quantity(seen, 'request')} seen, {canary['needed']:,} needed",
            ]
        self._cells(self.service["name"], {
            "operation": "; ".join(words),
            "progress": str(round(100 * done / total) if total else 0),
            "operation-age": _age(operation["since"], self.at, least=f"{_seconds(operation['since'], self.at)} s"),
        })  # fmt: skip
        return operation

    def _cells(self, about: str, found: Mapping[str, str]) -> None:
        self.made.cells.update({f"{about}.{key}": text for key, text in found.items()})


def tone(state: str) -> str:
    """Return how a state is to look: good, bad, or neither."""
    return "good" if state in _GOOD else "bad" if state in _BAD else "asked"


def _age(since: str | None, at: float, *, least: str = "< 2 min") -> str:
    """Return how long ago an RFC 3339 time was, in the largest unit of which it has two; ``least`` of less than that.

    Seconds would have every instance differ at each look after a start.
    """
    if since is None:
        return "–"
    seconds = _seconds(since, at)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return least


def _seconds(since: str, at: float) -> int:
    return max(0, int(at - datetime.fromisoformat(since).timestamp()))


def _latency(microseconds: float) -> str:
    if not isfinite(microseconds):
        return "over 16 s"
    return f"{microseconds / 1000:,.1f} ms" if microseconds >= 1000 else f"{microseconds:.0f} µs"


def differing(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return those of ``now`` that are not as they were ``before``."""
    return {name: text for name, text in now.items() if before.get(name) != text}
