"""The metrics' process of a real fleet: what it tells, who it is, and what becomes of it when others end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from portfleet.metrics.table import METRICS
from support.fleet_box import HOME, REDIS, FleetBox, fleet_box
from support.sandbox import wait_for
from support.watched import NAMED, QUICK, load, signal

pytestmark = pytest.mark.both_planes

_METRICS = '[metrics]\nlisten = "127.0.0.1:9797"\n'
#: What only some moments have.
_AT_TIMES = {"portfleet_warning", "portfleet_service_canary_requests", "portfleet_service_canary_requests_needed"}
#: What only the kernel's data plane has.
_KERNEL = {name for name in METRICS if name.startswith("portfleet_data_plane_")}


@pytest.fixture(scope="module")
def box(plane: str) -> Iterator[FleetBox]:
    with fleet_box(NAMED + QUICK + REDIS + _METRICS) as made:
        yield made


def curl(box: FleetBox, *words: str, port: int = 9797, check: bool = True) -> subprocess.CompletedProcess[str]:
    return box.boxes.host.run("curl", "-sS", "-m", "10", *words, f"http://127.0.0.1:{port}/metrics", check=check)


def scraped(box: FleetBox, *, port: int = 9797) -> dict[str, Metric]:
    """Return the families of one scrape by the names of the table; none while the process does not answer."""
    done = curl(box, port=port, check=False)
    found = {}
    for family in text_string_to_metric_families(done.stdout):
        total = f"{family.name}_total"
        found[total if family.type == "counter" else family.name] = family
    return found


def value(box: FleetBox, name: str, **labels: str) -> float | None:
    """Return the one sample of ``name`` that has these labels; None if there is none."""
    family = scraped(box).get(name)
    found = [s.value for s in family.samples if s.labels.items() >= labels.items()] if family else []
    return found[0] if found else None


def pids(box: FleetBox, words: str) -> list[int]:
    return [pid for pid, command in box.processes().items() if words in command]


def test_a_scrape_has_what_the_table_says_and_nothing_else(box: FleetBox) -> None:
    with load(box, held=40, connects=50):
        box.portfleet("drain", "echo/echo-blue-1", "--no-wait")
        expected = METRICS.keys() - _AT_TIMES - (_KERNEL if box.plane == "haproxy" else set())

        def all_of_them() -> dict[str, Metric] | None:
            found = scraped(box)
            return found if expected <= found.keys() else None

        found = wait_for("all are there", all_of_them)
        assert wait_for("clients' requests count", lambda: value(box, "portfleet_service_connections", service="echo"))
    box.portfleet("undrain", "echo/echo-blue-1")
    for name, family in found.items():
        metric = METRICS[name]
        assert (family.type, family.documentation) == (metric.kind, metric.words)
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels == set(metric.labels), name
    silent = {s.labels["fleet_instance"] for s in found["portfleet_instance_connections"].samples}
    assert {"kv-blue-1", "echo-blue-1"} <= silent
    assert {s.labels["service"] for s in found["portfleet_instance_requests_total"].samples} == {"echo"}


def test_an_ejection_and_a_restart_are_counted(box: FleetBox) -> None:
    labels = {"fleet_instance": "echo-blue-3"}
    before = value(box, "portfleet_instance_restarts_total", **labels)
    assert before is not None
    signal(box, box.status()["echo-blue-3"]["pid"], "KILL")
    wait_for("its end is told", lambda: value(box, "portfleet_instance_restarts_total", **labels) == before + 1)
    assert value(box, "portfleet_instance_ejections_total", reason="died", **labels) == 1
    wait_for("it is back", lambda: value(box, "portfleet_instance_state", state="ready", **labels))


def test_the_process_has_no_right_and_the_watcher_takes_no_order_of_it(box: FleetBox) -> None:
    (pid,) = pids(box, "metrics --serve")
    status = box.boxes.host.path(f"/proc/{pid}/status").read_text()
    assert "Uid:\t65534\t65534\t65534\t65534" in status and "CapEff:\t0000000000000000" in status
    if box.plane == "nftables":
        found = box.boxes.host.run("stat", "-c", "%U %a", f"{HOME}/run/seen.sock", f"{HOME}/run/watch.sock").stdout
        assert found.split("\n")[:2] == ["nobody 600", "root 600"]
    script = 'import socket; s = socket.socket(socket.AF_UNIX); s.connect("/run/pf/run/seen.sock"); '
    script += 's.sendall(b\'{"command": "reload"}\\n\'); print(s.recv(4096).decode())'
    assert "unknown command" in box.boxes.host.run("python3", "-c", script).stdout


def test_only_who_asks_for_this_box_is_answered(box: FleetBox) -> None:
    def code(name: str) -> str:
        return curl(box, "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Host: {name}").stdout

    assert {code(name) for name in ("127.0.0.1:9797", "[::1]", "localhost", "host")} == {"200"}
    assert {code(name) for name in ("evil.example", "127.0.0.1.evil.example", "")} == {"421"}


def test_the_same_is_printed_for_node_exporter(box: FleetBox) -> None:
    printed = box.portfleet("metrics").stdout
    names = {family.name for family in text_string_to_metric_families(printed)}
    assert {"portfleet_watcher_up", "portfleet_instance_slots"} <= names


@pytest.mark.long
def test_it_outlives_supervisord_is_told_of_a_watcher_that_is_away_and_goes_with_the_config(plane: str) -> None:
    with fleet_box(NAMED + QUICK + _METRICS) as box:
        first = wait_for("it runs", lambda: pids(box, "metrics --serve"))
        wait_for("it answers", lambda: value(box, "portfleet_supervisord_up") == 1)
        noted = box.boxes.host.path(f"{HOME}/lib/processes.json")
        wait_for("it is noted", lambda: "portfleet-metrics" in noted.read_text(), seconds=5)
        (watcher,) = pids(box, " watch --wait")
        signal(box, watcher, "STOP")
        wait_for("the watcher's silence is told", lambda: value(box, "portfleet_watcher_up") == 0)
        signal(box, watcher, "CONT")
        wait_for("it answers again", lambda: value(box, "portfleet_watcher_up") == 1)
        (supervisord,) = pids(box, "supervisor.supervisord")
        signal(box, supervisord, "KILL")
        wait_for("there is another", lambda: pids(box, "supervisor.supervisord") not in ([], [supervisord]))
        wait_for("all is well again", lambda: box.look().returncode == 0)
        wait_for("all is told again", lambda: value(box, "portfleet_supervisord_up") == 1)
        assert pids(box, "metrics --serve") == first
        box.write(NAMED + QUICK + _METRICS.replace("9797", "9798"))
        assert "start the metrics" in box.portfleet("apply").stderr
        wait_for("it answers elsewhere", lambda: "portfleet_watcher_up" in scraped(box, port=9798))
        box.settled()
        box.write(NAMED + QUICK)
        assert "stop the metrics" in box.portfleet("apply").stderr
        assert pids(box, "metrics --serve") == []
        wait_for("its socket is gone", lambda: not box.boxes.host.path(f"{HOME}/run/seen.sock").exists())
        box.settled()


@pytest.mark.full
def test_promtool_finds_nothing_to_say(box: FleetBox) -> None:
    promtool = ["promtool", "check", "metrics"]
    done = subprocess.run(promtool, input=curl(box).stdout, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
