"""The last fifteen minutes of each instance, and what each colour did in the last of them, kept in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

from portfleet.core.counters import Counters, add
from portfleet.metrics.ask import Entry
from portfleet.metrics.look import Look

#: Seconds between two looks that are kept; looks kept: fifteen minutes of numbers, one minute of everything.
EVERY = 5.0
_KEPT, _RECENT = 180, 13
#: Points of a sparkline: each is the highest of three looks.
_POINTS = 60


class Series:
    """One instance: its connections, and its requests a second since the look before (None: it does not tell)."""

    def __init__(self) -> None:
        self.connections: deque[int | None] = deque(maxlen=_KEPT)
        self.rates: deque[float | None] = deque(maxlen=_KEPT)
        self._before: tuple[float, int] | None = None

    def note(self, at: float, connections: int | None, requests: int | None) -> None:
        """Take one look at the Unix time ``at``; ``requests`` is the instance's counter, which may begin anew."""
        self.connections.append(connections)
        before, self._before = self._before, None if requests is None else (at, requests)
        if before is None or requests is None or requests < before[1] or at <= before[0]:
            self.rates.append(None)
        else:
            self.rates.append((requests - before[1]) / (at - before[0]))


class History:
    """What looks have shown, by instance. An instance that is told no longer is forgotten."""

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}
        self._recent: deque[Look] = deque(maxlen=_RECENT)

    def note(self, look: Look) -> None:
        """Keep a look; one without an answer of the watcher leaves a gap."""
        if look.told is None:
            for series in self._series.values():
                series.note(look.at, None, None)
            return
        self._recent.append(look)
        self._series = {one["name"]: self._series.get(one["name"]) or Series() for one in look.instances}
        for one in look.instances:
            requests = one["said"]["requests"] if one["said"] else None
            self._series[one["name"]].note(look.at, look.connections.get(one["name"]), requests)

    def rate(self, name: str) -> float | None:
        """Return an instance's requests a second, None if it does not tell."""
        series = self._series.get(name)
        found = [one for one in list(series.rates)[-3:] if one is not None] if series else []
        return sum(found) / len(found) if found else None

    def lines(self, name: str) -> tuple[list[float | None], list[float | None]]:
        """Return an instance's connections and requests a second over fifteen minutes, the oldest first."""
        series = self._series.get(name)
        return (_thin(series.connections), _thin(series.rates)) if series else ([], [])

    def counted(self, service: str, colour: str | None) -> tuple[Counters, float]:
        """Return what a colour's instances counted within about the last minute, and how many seconds that was."""
        if len(self._recent) < 2:
            return Counters(), 0.0
        first, last = self._recent[0], self._recent[-1]
        before = {one["name"]: counters(one) for one in first.of(service)}
        came = [
            counters(one).since(before[one["name"]])
            for one in last.of(service)
            if one["colour"] == colour and one["name"] in before
        ]
        return add(came), last.at - first.at


def counters(one: Entry) -> Counters:
    """Return what an instance counts, nothing if it does not tell."""
    said = one["said"]
    if not said or said["requests"] is None:
        return Counters()
    latency = zip((*map(float, said["bounds"]), inf), said["counts"], strict=False)
    return Counters(said["requests"], said["errors"] or 0, tuple(latency))


def _thin(values: Sequence[float | None]) -> list[float | None]:
    """Return ``values``, if there may be more than `_POINTS` of them the highest of each three."""
    each = _KEPT // _POINTS
    found = list(values)
    groups = [found[max(0, end - each) : end] for end in range(len(found), 0, -each)][::-1]
    return [max((one for one in group if one is not None), default=None) for group in groups]
