"""From a look to Prometheus' metrics, as `table` has them; how they are written is the client library's business."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from portfleet.core.balance import ratio
from portfleet.metrics.ask import Entry
from portfleet.metrics.look import Look
from portfleet.metrics.table import METRICS

#: Of a daemon's latency buckets every one whose bound is so many times the one before: a dozen of our daemon's 43.
_COARSE = 3.9

_KINDS: dict[str, Any] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Families(Collector):
    """The metrics of one look."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._made: dict[str, Metric] = {}

    def collect(self) -> Iterable[Metric]:
        """Return the families that have samples, in the order of the table."""
        self._made = {}
        self._add("portfleet_watcher_up", (), self._look.told is not None)
        self._add("portfleet_collect_duration_seconds", (), self._look.took)
        if self._look.told is not None:
            self._box(self._look.told.fleet, self._look.told.pid)
            for service in self._look.services:
                self._service(service)
            for one in self._look.instances:
                self._instance(one)
        return [self._made[name] for name in METRICS if name in self._made]

    def _add(self, name: str, labels: Sequence[str], value: float | None) -> None:
        """Add a sample of a gauge or counter; for None nothing."""
        if value is not None:
            self._family(name).add_metric(labels, value)

    def _spread(self, name: str, labels: Sequence[str], durations: Mapping[str, Any]) -> None:
        """Add a histogram, in the form of `Durations.to_json`; ``sum`` may be None."""
        buckets = list(_cumulated(durations["bounds"], durations["counts"]))
        self._family(name).add_metric(labels, buckets, durations["sum"])

    def _family(self, name: str) -> Any:
        if name not in self._made:
            metric = METRICS[name]
            self._made[name] = _KINDS[metric.kind](name, metric.words, labels=metric.labels)
        return self._made[name]

    def _box(self, fleet: Entry, pid: int) -> None:
        self._add("portfleet_build_info", (fleet["version"], fleet["data_plane"]), 1)
        self._add("portfleet_watcher_start_time_seconds", (), fleet["began"])
        if usage := self._look.usage.get(pid):
            self._add("portfleet_watcher_cpu_seconds_total", (), usage.cpu)
            self._add("portfleet_watcher_resident_memory_bytes", (), usage.memory)
        self._spread("portfleet_watcher_loop_lag_seconds", (), fleet["loop_lag"])
        self._add("portfleet_watcher_unexpected_errors_total", (), fleet["unexpected"])
        self._add("portfleet_supervisord_up", (), fleet["supervisord"] is not None)
        for kind, durations in fleet["transactions"].items():
            self._spread("portfleet_transaction_duration_seconds", (kind,), durations)
        self._add("portfleet_drift", (), fleet["drift"])
        for lost, count in fleet["healed"].items():
            self._add("portfleet_healed_total", (lost,), count)
        for kind, count in fleet["events"].items():
            self._add("portfleet_events_total", (kind,), count)
        if room := fleet["room"]:
            self._add("portfleet_data_plane_connections", (), room["used"])
            self._add("portfleet_data_plane_connections_limit", (), room["limit"])
            self._add("portfleet_data_plane_connections_dropped_total", (), room["dropped"])
        for warning in fleet["warnings"]:
            self._add("portfleet_warning", (warning["name"],), 1)

    def _service(self, service: Entry) -> None:
        name, found = service["name"], self._look.of(service["name"])
        known = self._look.connections
        live = {one["name"]: known[one["name"]] for one in found
                if one["serving"] and one["colour"] == service["live"] and one["name"] in known}  # fmt: skip
        self._add("portfleet_service_up", (name,), service["down"] is None)
        self._add("portfleet_service_slots", (name,), service["slots"])
        self._add("portfleet_service_serving_instances", (name,), sum(one["serving"] for one in found))
        self._add("portfleet_service_skew_ratio", (name,), ratio(live) if live else 1.0)
        self._add("portfleet_service_canary_ratio", (name,), service["canary"] / 100)
        for colour in dict.fromkeys(one["colour"] for one in found):
            mine = [one for one in found if one["colour"] == colour]
            labels = (name, colour or "remote")
            self._add("portfleet_service_share_ratio", labels, sum(one["slots"] for one in mine) / service["slots"])
            self._add("portfleet_service_connections", labels, sum(known.get(one["name"], 0) for one in mine))
        for colour, ran in service["colours"].items():
            live_one = "true" if colour == service["live"] else "false"
            self._add("portfleet_service_release_info", (name, colour, ran["release"] or "", live_one), 1)
        if operation := service["operation"]:
            self._operation(name, operation, found)

    def _operation(self, service: str, operation: Entry, found: Sequence[Entry]) -> None:
        labels = (service, operation["verb"])
        began = datetime.fromisoformat(operation["since"]).timestamp()
        self._add("portfleet_operation_start_time_seconds", labels, began)
        progress = operation["done"] / operation["total"] if operation["total"] else 0.0
        self._add("portfleet_operation_progress_ratio", labels, progress)
        self._add("portfleet_operation_failed", labels, bool(operation["failed"]))
        if canary := operation["canary"]:
            self._add("portfleet_service_canary_requests", (service,), canary_requests(canary, found))
            self._add("portfleet_service_canary_requests_needed", (service,), canary["needed"])

    def _instance(self, one: Entry) -> None:
        labels = (one["service"], one["colour"] or "remote", one["name"])
        add = self._add
        add("portfleet_instance_state", (*labels, one["state"]), 1)
        add("portfleet_instance_serving", labels, one["serving"])
        since = one["since"]
        add("portfleet_instance_changed_time_seconds", labels, since and datetime.fromisoformat(since).timestamp())
        add("portfleet_instance_slots", labels, one["slots"])
        add("portfleet_instance_connections", labels, self._look.connections.get(one["name"]))
        add("portfleet_instance_dropped_syns_total", labels, one["dropped"])
        add("portfleet_instance_restarts_total", labels, one["ends"])
        for reason, count in one["ejected"].items():
            add("portfleet_instance_ejections_total", (*labels, reason), count)
        add("portfleet_instance_probe_duration_seconds", labels, one["probe"])
        if usage := self._look.usage.get(one["pid"] or 0):
            add("portfleet_instance_cpu_seconds_total", labels, usage.cpu)
            add("portfleet_instance_resident_memory_bytes", labels, usage.memory)
        if said := one["said"]:
            add("portfleet_instance_connections_limit", labels, said["max_connections"] or None)
            add("portfleet_instance_accepted_total", labels, said["accepted"])
            add("portfleet_instance_requests_total", labels, said["requests"])
            add("portfleet_instance_errors_total", labels, said["errors"])
            if said["counts"]:
                self._spread(
                    "portfleet_instance_request_duration_seconds", labels, _coarse(said["bounds"], said["counts"])
                )


def text(look: Look) -> bytes:
    """Return Prometheus' text of a look (text/plain; version=0.0.4)."""
    return generate_latest(Families(look))


def canary_requests(canary: Entry, found: Iterable[Entry]) -> int:
    """Return how many requests a canary has answered in its present step, well or not, by its instances among those."""
    said = [one["said"] for one in found if one["colour"] == canary["colour"] and one["said"]]
    answered = sum((one["requests"] or 0) + (one["errors"] or 0) for one in said)
    return max(0, answered - int(canary["from"]))


def _cumulated(bounds: Sequence[float], counts: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Return buckets as Prometheus has them: each holds all that is not above its bound."""
    total = 0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        yield bound, total


def _coarse(bounds: Sequence[float], counts: Sequence[int]) -> Mapping[str, Any]:
    """Return a daemon's histogram, bounds in µs, with fewer buckets and bounds in seconds."""
    kept: list[float] = []
    sums = [0]
    for bound, count in zip(bounds, counts, strict=False):
        sums[-1] += count
        if not kept or bound >= _COARSE * kept[-1]:
            kept.append(bound)
            sums.append(0)
    sums[-1] += counts[-1]
    return {"bounds": [bound / 1e6 for bound in kept], "counts": sums, "sum": None}
