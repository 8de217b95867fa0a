"""Metrics as values: what a look becomes, whatever names are in it, and that nothing of it is loaded by other verbs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from portfleet.commands import VERBS
from portfleet.core.durations import Durations
from portfleet.core.errors import PortfleetError
from portfleet.metrics.ask import Told, ask
from portfleet.metrics.families import text
from portfleet.metrics.look import Look, Looks
from portfleet.metrics.table import METRICS
from support.seen import answering, fleet_told, instance_told, service_told

TOP = Path(__file__).parents[2]
#: What a release can be called on a command line, and what would end a label, a line or a page.
HOSTILE = 'v1"} 1\\n<script>alert(1)</script>\u202e'


def told(**changes: Any) -> Told:
    service = service_told("echo", **changes)
    return Told(1, fleet_told(service), tuple(instance_told("echo", number) for number in (1, 2)))


def samples(look: Look) -> dict[tuple[str, ...], float]:
    found = {}
    for family in text_string_to_metric_families(text(look).decode()):
        for sample in family.samples:
            found[(sample.name, *sample.labels.values())] = sample.value
    return found


def test_without_a_watcher_its_absence_is_told_and_nothing_else() -> None:
    found = samples(Look(0.0, trouble="no answer"))
    assert found == {("portfleet_watcher_up",): 0, ("portfleet_collect_duration_seconds",): 0}


def test_no_name_ends_a_label_or_a_line() -> None:
    colours = {"blue": {"release": HOSTILE, "since": None, "keep_until": None}}
    found = samples(Look(0.0, told(colours=colours)))
    assert [labels for name, *labels in found if name == "portfleet_service_release_info"] == [
        ["blue", "true", HOSTILE, "echo"]
    ]


def test_skew_is_of_those_that_serve_in_the_live_colour() -> None:
    look = Look(0.0, told(), connections={"echo-blue-1": 30, "echo-blue-2": 10})
    assert samples(look)["portfleet_service_skew_ratio", "echo"] == 1.5


def test_a_latency_histogram_keeps_its_sum_of_requests_and_a_dozen_buckets() -> None:
    one = instance_told("echo", 1)
    bounds = [8 * 2 ** (step / 2) for step in range(43)]
    one["said"] |= {"bounds": bounds, "counts": [1] * 44}
    found = samples(Look(0.0, Told(1, fleet_told(service_told("echo")), (one,))))
    name = "portfleet_instance_request_duration_seconds_bucket"
    names = {"blue", "echo", "echo-blue-1"}
    buckets = {float(*({*labels} - names)): count for (kind, *labels), count in found.items() if kind == name}
    assert len(buckets) == 12 and buckets[float("inf")] == 44
    assert buckets[8e-6] == 1 and buckets[32e-6] == 5


def test_a_canary_is_told_with_the_requests_of_its_step() -> None:
    canary = {"colour": "blue", "percent": 5, "from": 100, "needed": 20}
    operation = {
        "number": 3, "verb": "cutover", "words": "cutover echo", "who": "root@host", "since": "2026-01-31T12:00:00Z",
        "phase": "canary", "done": 5, "total": 10, "note": "", "cancelled": False, "failed": "", "canary": canary,
    }  # fmt: skip
    found = samples(Look(0.0, told(operation=operation)))
    assert found["portfleet_service_canary_requests", "echo"] == 2 * 110 - 100
    assert found["portfleet_operation_progress_ratio", "echo", "cutover"] == 0.5


def test_the_watcher_is_asked_once_by_all_who_ask_within_a_second() -> None:
    taken = []

    def take(path: Path) -> Look:
        taken.append(path)
        return Look(0.0)

    looks = Looks(Path("/x"), take=take)
    threads = [threading.Thread(target=looks.now) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_all_instances_are_asked_for_and_halves_of_characters_are_replaced(tmp_path: Path) -> None:
    instances = [instance_told("echo", number) for number in range(1, 131)]
    instances[0]["why"] = "\udcff"
    with answering(tmp_path / "seen.sock", fleet_told(service_told("echo")), instances):
        found = ask(tmp_path / "seen.sock")
    assert [one["name"] for one in found.instances] == [one["name"] for one in instances]
    assert found.instances[0]["why"] == "?"


def test_a_watcher_that_refuses_or_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(PortfleetError, match="does not answer"):
        ask(tmp_path / "none.sock", seconds=0.1)
    refusal = {"ok": False, "error": "unknown command"}
    with answering(tmp_path / "seen.sock", refusal, []), pytest.raises(PortfleetError, match="unknown command"):
        ask(tmp_path / "seen.sock")


def test_durations_are_counted_in_the_first_bucket_that_holds_them() -> None:
    durations = Durations((0.1, 1.0))
    for seconds in (0.1, 0.5, 2.0, -1.0):
        durations.add(seconds)
    assert json.loads(json.dumps(durations.to_json())) == {"bounds": [0.1, 1.0], "counts": [2, 1, 1], "sum": 2.6}


def test_names_and_kinds_follow_prometheus_conventions() -> None:
    for metric in METRICS.values():
        assert metric.name.startswith("portfleet_") and metric.words
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert "instance" not in metric.labels, "which is Prometheus' own"


def test_no_other_verb_loads_the_libraries_of_the_metrics() -> None:
    others = [verb for verb in VERBS if verb != "metrics"]
    script = (
        "import importlib, sys\nimport portfleet.__main__\n"
        f"for verb in {others}: importlib.import_module(f'portfleet.commands.{{verb}}')\n"
        "import portfleet.apply.context, portfleet.watch.preload\nportfleet.watch.preload.load_all()\n"
        "print(*{name.split('.')[0] for name in sys.modules}, *sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {"prometheus_client", "starlette", "uvicorn", "h11", "anyio", "portfleet.metrics.look"}.isdisjoint(found)


@pytest.mark.parametrize("page", ["docs/grafana/portfleet.json", "docs/alerts.yml", "tests/full/alerts.test.yml"])
def test_the_dashboard_and_the_alerts_name_only_metrics_that_are_there(page: str) -> None:
    named = set(re.findall(r"\bportfleet_[a-z_]+", (TOP / page).read_text()))
    histograms = {f"{name}_bucket" for name, metric in METRICS.items() if metric.kind == "histogram"}
    assert len(named) > 10 and named <= METRICS.keys() | histograms


def test_the_dashboard_needs_no_edit_to_be_imported() -> None:
    dashboard = json.loads((TOP / "docs/grafana/portfleet.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert "datasource" in {variable["name"] for variable in dashboard["templating"]["list"]}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    asked = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    assert sum(name in asked for name in METRICS) > len(METRICS) // 2


def test_each_alert_is_in_the_docs() -> None:
    alerts = re.findall(r"alert: (\w+)", (TOP / "docs/alerts.yml").read_text())
    documented = re.findall(r"^\| (Portfleet\w+) \|", (TOP / "docs/metrics.md").read_text(), re.MULTILINE)
    assert sorted(alerts) == sorted(documented)
