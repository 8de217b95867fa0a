"""Sees a fleet as its operators do, by its metrics and events alone, and says which faults it saw, and when.

Events are told by the order in which they come, not by their times: the wall clock of the fleet may jump.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from support.chaos import Fault
from support.fleet_box import FleetBox
from support.netns import network_of
from support.sandbox import wait_for
from support.watched import signal

PORT = 9797
METRICS = f'\n[metrics]\nlisten = "127.0.0.1:{PORT}"\n'
_EVERY = 0.3
#: Seconds for which the process of the metrics keeps its answers.
_KEPT = 1.0
#: Seconds after a fault within which it must have been seen: two scrapes, and the second for which answers are kept.
_GRACE = 3.0
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Scrape = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Seen:
    """How one fault showed: the kind of its first event and the name of its first metric, each with the seconds after
    which it came; None for what did not come."""

    fault: Fault
    event: tuple[str, float] | None
    metric: tuple[str, float] | None

    @property
    def line(self) -> str:
        told = [f"{what[0]} {what[1]:5.2f} s" if what else "NOT SEEN" for what in (self.event, self.metric)]
        return f"{self.fault.kind:<24} {','.join(sorted(self.fault.hit)):<12} {told[0]:<28} {told[1]}"


@dataclass
class Witness:
    """What came: each event with when it came, each scrape that was answered with when it was; monotonic seconds."""

    events: list[tuple[float, dict[str, str]]] = field(default_factory=list)
    scrapes: list[tuple[float, Scrape]] = field(default_factory=list)

    def catch_up(self) -> None:
        """Wait until a scrape was answered that tells of all that has happened until now; raise AssertionError."""
        since = time.monotonic() + _KEPT
        wait_for("a scrape that is new", lambda: bool(self.scrapes) and self.scrapes[-1][0] > since)

    def seen(self, faults: Iterable[Fault]) -> list[Seen]:
        """Return how each fault showed between its begin and a few seconds after its end."""
        return [Seen(fault, self._event(fault), self._metric(fault)) for fault in faults]

    def _event(self, fault: Fault) -> tuple[str, float] | None:
        kinds = _EVENTS[fault.kind]
        for at, event in self.events:
            hit = not fault.hit or event.get("instance") in fault.hit
            if hit and event["kind"] in kinds and fault.began <= at <= fault.ended + _GRACE:
                return event["kind"], at - fault.began
        return None

    def _metric(self, fault: Fault) -> tuple[str, float] | None:
        name, shows = _METRICS[fault.kind]
        before: Scrape = {}
        for at, scrape in self.scrapes:
            if at < fault.began:
                before = scrape
            elif at > fault.ended + _GRACE:
                break
            elif shows(before, scrape, fault.hit):
                return name, at - fault.began
        return None


@contextmanager
def witness(box: FleetBox) -> Iterator[Witness]:
    """Watch a fleet while the block runs; its config has `METRICS`."""
    found, over = Witness(), threading.Event()
    follower = box.boxes.host.popen(*box.argv("events", "-f", "--json"))
    threads = [
        threading.Thread(target=_scrape, args=(box, found, over)),
        threading.Thread(target=_follow, args=(follower.stdout, found)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield found
        found.catch_up()
    finally:
        over.set()
        for pid, words in box.processes().items():
            if words.endswith("events -f --json"):
                signal(box, pid, "TERM")
        follower.wait()
        for thread in threads:
            thread.join()


def _scrape(box: FleetBox, found: Witness, over: threading.Event) -> None:
    with network_of(box.boxes.host):
        while not over.wait(_EVERY):
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)) as connection:
                    connection.request("GET", "/metrics")
                    text = connection.getresponse().read().decode()
            except (OSError, http.client.HTTPException):
                continue  # the process of the metrics is being started, say
            found.scrapes.append((time.monotonic(), _parse(text)))


def _follow(lines: Iterable[str] | None, found: Witness) -> None:
    for line in lines or ():
        found.events.append((time.monotonic(), json.loads(line)))


def _parse(text: str) -> Scrape:
    """Return a scrape as {(metric, what its labels say): value}."""
    scrape: Scrape = {}
    for line in text.splitlines():
        if (sample := _SAMPLE.match(line)) is not None:
            labels = ",".join(f"{name}={value}" for name, value in _LABEL.findall(sample[2] or ""))
            scrape[sample[1], labels] = float(sample[3])
    return scrape


def _of(scrape: Scrape, metric: str, hit: Iterable[str] = ()) -> dict[str, float]:
    """Return the values of a metric by labels; with ``hit`` those of these instances alone."""
    found = {labels: value for (name, labels), value in scrape.items() if name == metric}
    return {
        labels: value
        for labels, value in found.items()
        if not hit or any(f"fleet_instance={n}," in f"{labels}," for n in hit)
    }


def _grew(metric: str) -> Callable[[Scrape, Scrape, Iterable[str]], bool]:
    """Return what tells whether a counter has grown; a watcher that was started since began at 0."""

    def shows(before: Scrape, scrape: Scrape, hit: Iterable[str]) -> bool:
        was, now = _of(before, metric, hit), _of(scrape, metric, hit)
        if _other(before, scrape, ()):
            return any(now.values())
        return any(value > was.get(labels, 0.0) for labels, value in now.items())

    return shows


def _other(before: Scrape, scrape: Scrape, _: Iterable[str]) -> bool:
    began = "portfleet_watcher_start_time_seconds"
    return bool(_of(scrape, began)) and _of(before, began) != _of(scrape, began)


def _warned(_: Scrape, scrape: Scrape, __: Iterable[str]) -> bool:
    return any(labels == "about=conntrack" for labels in _of(scrape, "portfleet_warning"))


def _begun(before: Scrape, scrape: Scrape, _: Iterable[str]) -> bool:
    sample = ("portfleet_events_total", "kind=operation-begun")
    return scrape.get(sample, 0.0) > before.get(sample, 0.0)


_EJECTED = _grew("portfleet_instance_ejections_total")
#: Which events tell of a kind of fault.
_EVENTS = {
    "kill -9 of an instance": ("ejected",),
    "kill -9 of the watcher": ("started",),
    "kill -9 of supervisord": ("supervisord-died", "supervisord-back"),
    "SIGSTOP of an instance": ("ejected",),
    "nft flush ruleset": ("healed",),
    "conntrack table full": ("warning", "blind"),
    "journal's disk full": ("ejected",),
    "two operators at once": ("operation-begun",),
    "clock jumps": ("ejected",),
}
#: Which metric tells of it, and what of that does: by the last scrape before it, one after its begin, and who was hit.
_METRICS: dict[str, tuple[str, Callable[[Scrape, Scrape, Iterable[str]], bool]]] = {
    "kill -9 of an instance": ("instance_ejections_total", _EJECTED),
    "kill -9 of the watcher": ("watcher_start_time_seconds", _other),
    "kill -9 of supervisord": ("watcher_start_time_seconds", _other),
    "SIGSTOP of an instance": ("instance_ejections_total", _EJECTED),
    "nft flush ruleset": ("healed_total", _grew("portfleet_healed_total")),
    "conntrack table full": ("warning", _warned),
    "journal's disk full": ("instance_ejections_total", _EJECTED),
    "two operators at once": ("events_total", _begun),
    "clock jumps": ("instance_ejections_total", _EJECTED),
}
