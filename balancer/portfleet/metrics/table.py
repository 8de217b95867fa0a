"""Every metric: its name, kind, labels and meaning. script/docs writes this table into docs/metrics.md."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["gauge", "counter", "histogram"]

_SERVICE = ("service",)
_COLOUR = ("service", "colour")
_OPERATION = ("service", "verb")
_INSTANCE = ("service", "colour", "fleet_instance")


class Metric(NamedTuple):
    """One metric. ``when``: what it takes to be there, "" if it always is while the watcher answers."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    words: str
    when: str = ""


#: By what they are about, in the order in which they are told.
TABLE: dict[str, tuple[Metric, ...]] = {
    "The watcher and the box": (
        Metric("portfleet_watcher_up", "gauge", (), "1 if the watcher answers, otherwise 0", "always"),
        Metric("portfleet_collect_duration_seconds", "gauge", (), "How long it took to gather all of this", "always"),
        Metric("portfleet_build_info", "gauge", ("version", "data_plane"), "1; the version of the watcher"),
        Metric("portfleet_watcher_start_time_seconds", "gauge", (), "When the watcher began, as a Unix time"),
        Metric("portfleet_watcher_cpu_seconds_total", "counter", (), "Processor time of the watcher"),
        Metric("portfleet_watcher_resident_memory_bytes", "gauge", (), "Resident memory of the watcher"),
        Metric("portfleet_watcher_loop_lag_seconds", "histogram", (), "By how much the watcher's loop was late"),
        Metric("portfleet_watcher_unexpected_errors_total", "counter", (), "Defects that the watcher met and survived"),
        Metric("portfleet_supervisord_up", "gauge", (), "1 if supervisord lives, otherwise 0"),
        Metric(
            "portfleet_transaction_duration_seconds",
            "histogram",
            ("kind",),
            "How long changes of the data plane took: kind divert, point or repair",
        ),
        Metric("portfleet_drift", "gauge", (), 'With drift = "report": 1 while the rules are not as they should be'),
        Metric("portfleet_healed_total", "counter", ("lost",), "Repairs of rules that others changed: table or rules"),
        Metric("portfleet_events_total", "counter", ("kind",), "Events since the watcher began, those of commands too"),
        Metric(
            "portfleet_data_plane_connections",
            "gauge",
            (),
            "Connections the data plane keeps: with nftables all of the box that conntrack knows",
            "the data plane has a limit",
        ),
        Metric(
            "portfleet_data_plane_connections_limit",
            "gauge",
            (),
            "How many it can keep: with nftables net.netfilter.nf_conntrack_max",
            "the data plane has a limit",
        ),
        Metric(
            "portfleet_data_plane_connections_dropped_total",
            "counter",
            (),
            "Connections dropped as there was no room for them",
            "the data plane has a limit",
        ),
        Metric("portfleet_warning", "gauge", ("about",), "1 for each warning of `portfleet status`", "there is one"),
    ),
    "Services": (
        Metric("portfleet_service_up", "gauge", _SERVICE, "0 if the service was taken down, otherwise 1"),
        Metric("portfleet_service_slots", "gauge", _SERVICE, "Slots that the service's clients are spread over"),
        Metric("portfleet_service_serving_instances", "gauge", _SERVICE, "Instances that new connections go to"),
        Metric(
            "portfleet_service_skew_ratio",
            "gauge",
            _SERVICE,
            "Connections of the instance that has most over the mean of those of the live colour that serve",
        ),
        Metric("portfleet_service_share_ratio", "gauge", _COLOUR, "Share of the slots that a colour serves, 0 to 1"),
        Metric("portfleet_service_connections", "gauge", _COLOUR, "Established connections of a colour"),
        Metric(
            "portfleet_service_release_info",
            "gauge",
            (*_COLOUR, "release", "live"),
            "1; the release of a colour, and whether that is the live one",
        ),
        Metric(
            "portfleet_service_canary_ratio",
            "gauge",
            _SERVICE,
            "Share of the slots that the canary is to serve, 0 to 1",
        ),
        Metric(
            "portfleet_service_canary_requests",
            "gauge",
            _SERVICE,
            "Requests that the canary has answered in its present step",
            "a canary is judged",
        ),
        Metric(
            "portfleet_service_canary_requests_needed",
            "gauge",
            _SERVICE,
            "Requests that it must have answered to be judged",
            "a canary is judged",
        ),
        Metric(
            "portfleet_operation_start_time_seconds",
            "gauge",
            _OPERATION,
            "When the running operation began, as a Unix time",
            "an operation runs",
        ),
        Metric(
            "portfleet_operation_progress_ratio",
            "gauge",
            _OPERATION,
            "How far the running operation is in its present phase, 0 to 1",
            "an operation runs",
        ),
        Metric(
            "portfleet_operation_failed",
            "gauge",
            _OPERATION,
            "1 while an operation that failed is being undone",
            "an operation runs",
        ),
    ),
    "Instances": (
        Metric("portfleet_instance_state", "gauge", (*_INSTANCE, "state"), "1; the state that the instance is in now"),
        Metric("portfleet_instance_serving", "gauge", _INSTANCE, "1 if new connections go to the instance"),
        Metric(
            "portfleet_instance_changed_time_seconds",
            "gauge",
            _INSTANCE,
            "When its state was the last to change, as a Unix time",
            "that is known",
        ),
        Metric("portfleet_instance_slots", "gauge", _INSTANCE, "Slots that point to the instance"),
        Metric(
            "portfleet_instance_connections",
            "gauge",
            _INSTANCE,
            "Established connections: by the daemon's word, otherwise by the sockets of its port",
            "it is on this box and has a process",
        ),
        Metric(
            "portfleet_instance_connections_limit",
            "gauge",
            _INSTANCE,
            "Connections that the daemon takes at most",
            "the daemon tells",
        ),
        Metric(
            "portfleet_instance_accepted_total",
            "counter",
            _INSTANCE,
            "Connections that the daemon has accepted since its start",
            "the daemon tells",
        ),
        Metric(
            "portfleet_instance_dropped_syns_total",
            "counter",
            _INSTANCE,
            "Attempts to connect that found no listener, since the rules were loaded",
            "it serves",
        ),
        Metric(
            "portfleet_instance_restarts_total",
            "counter",
            _INSTANCE,
            "How often its process has ended since the watcher knows it, for whatever reason",
        ),
        Metric(
            "portfleet_instance_ejections_total",
            "counter",
            (*_INSTANCE, "reason"),
            "How often the watcher has ejected it: reason died or probe",
        ),
        Metric(
            "portfleet_instance_probe_duration_seconds",
            "gauge",
            _INSTANCE,
            "How long the last probe took that asked and succeeded, in steps of 10 ms",
            "it was probed",
        ),
        Metric(
            "portfleet_instance_cpu_seconds_total",
            "counter",
            _INSTANCE,
            "Processor time of its processes",
            "it has a process on this box",
        ),
        Metric(
            "portfleet_instance_resident_memory_bytes",
            "gauge",
            _INSTANCE,
            "Resident memory of its processes",
            "it has a process on this box",
        ),
        Metric(
            "portfleet_instance_requests_total",
            "counter",
            _INSTANCE,
            "Requests answered since its start; those of the watcher's probes are among them",
            "the daemon tells",
        ),
        Metric(
            "portfleet_instance_errors_total", "counter", _INSTANCE, "Requests that failed", "the daemon tells"
        ),
        Metric(
            "portfleet_instance_request_duration_seconds",
            "histogram",
            _INSTANCE,
            "How long requests took in the daemon; no sum, which the daemon does not tell",
            "the daemon tells",
        ),
    ),
}  # fmt: skip
METRICS = {metric.name: metric for metrics in TABLE.values() for metric in metrics}
