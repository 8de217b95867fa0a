"""What `top` computes from two samples, and how it lays that out."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from portfleet.core.counters import Counters
from portfleet.core.status import DaemonState, Status
from portfleet.daemons.rates import Rates, Sample, rates, sample
from portfleet.daemons.traffic import Traffic, TrafficMeter
from portfleet.screen.keys import named
from portfleet.screen.top import SORTS, View, chosen, remember, show, spark
from portfleet.screen.top_controls import HELP, Controls, Wish

INFINITE = float("inf")


def counted(at: float, requests: int, *buckets: int, pid: int = 1) -> Sample:
    latency = tuple(zip((8.0, 16.0, INFINITE), buckets, strict=True))
    return Sample(at, pid, cpu=at / 2, memory=1000, accepted=requests // 10, counters=Counters(requests, 0, latency))


def test_rates_are_of_what_came_between_two_samples() -> None:
    found = rates(counted(10.0, 100, 100, 0, 0), counted(12.0, 300, 150, 148, 2))
    assert found == Rates(cpu=50.0, memory=1000, accepts=10.0, requests=100.0, p50=16.0, p99=16.0)
    slow = rates(counted(10.0, 0, 0, 0, 0), counted(12.0, 100, 0, 0, 100))
    assert slow is not None and slow.p99 == 16.0, "the last bucket has no upper bound"
    idle = rates(counted(10.0, 100, 100, 0, 0), counted(12.0, 100, 100, 0, 0))
    assert idle is not None and (idle.requests, idle.p50, idle.p99) == (0.0, None, None)


def test_of_a_daemon_with_one_bucket_or_without_accepts_the_rest_is_shown() -> None:
    before, after = (
        Sample(at, 1, at / 2, 9, counters=Counters(count, 0, ((INFINITE, count),)))
        for at, count in ((1.0, 5), (3.0, 25))
    )
    assert rates(before, after) == Rates(cpu=50.0, memory=9, requests=10.0)
    assert rates(after, before) == Rates(cpu=0.0, memory=9, requests=0.0), (
        "counters that go back are an error of theirs"
    )


def test_another_process_has_no_rates_yet() -> None:
    assert rates(counted(1.0, 9, 9, 0, 0), counted(2.0, 1, 1, 0, 0, pid=2)) is None
    assert rates(None, counted(2.0, 1, 1, 0, 0)) is None
    assert rates(counted(1.0, 9, 9, 0, 0), None) is None


def test_a_daemon_that_is_not_ours_has_processor_time_and_memory_alone() -> None:
    assert rates(Sample(1.0, 7, 0.5, 10), Sample(3.0, 7, 2.5, 20)) == Rates(cpu=100.0, memory=20)


def test_a_sample_is_of_a_process_and_its_children() -> None:
    burn = "import os\nif not os.fork():\n    while True: pass\nos.wait()"
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", burn], process_group=0) as process:
        try:
            deadline = began + 20
            while (found := sample(process.pid, None)) is None or found.cpu < 0.3:
                assert time.monotonic() < deadline, found
            assert found.memory > 2_000_000
        finally:
            os.killpg(process.pid, 9)
    assert sample(process.pid, None) is None
    assert found.cpu <= found.at - began + 0.1, "one processor gives a second a second"


def service(*cpus: float | None) -> dict[str, Any]:
    def instance(number: int, cpu: float | None) -> dict[str, Any]:
        busy = None if cpu is None else vars(Rates(cpu, 21_400_000, 3.0, 12_345.6, 45.3, 1448.2, 870.0, 1.46e6))
        return {"name": f"echo-blue-{number}", "state": "ready", "slots": 1024, "connections": 5000, "rates": busy}

    instances = [instance(number, cpu) for number, cpu in enumerate(cpus, 1)]
    return {"name": "echo", "live": "blue", "down": None, "instances": instances}


def test_the_busiest_is_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    show([service(12.4, None, 99.6)], 2.0, screen=False)
    first, blank, sums, head, *rows, end = capsys.readouterr().out.split("\n")[:-1]
    assert first.endswith("  every 2 s  sorted by cpu") and (blank, end) == ("", "")
    assert sums == "echo  live blue  15,000 connections  6 new/s  24,691 requests/s"
    assert " ".join(head.split()) == "INSTANCE STATE SLOTS CONNS NEW/S REQ/S IN/S OUT/S P50 P99 CPU MEMORY"
    assert [" ".join(row.split()) for row in rows] == [
        "echo-blue-3 ready 1,024 5,000 3 12,346 870 B 1.5 MB 45 µs 1.4 ms 100 % 21 MB",
        "echo-blue-1 ready 1,024 5,000 3 12,346 870 B 1.5 MB 45 µs 1.4 ms 12 % 21 MB",
        "echo-blue-2 ready 1,024 5,000 - - - - - - - -",
    ]


def test_a_screen_is_not_higher_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "8")
    show([service(*range(40))], 2.0, screen=True)
    out = capsys.readouterr().out
    assert out.count("\n") == 7
    assert "… 38 lines more: portfleet top SERVICE, or a higher terminal" in out
    assert "echo-blue-40" in out and "echo-blue-1 " not in out


def test_all_services_have_one_layout_which_does_not_follow_each_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def heads(*services: dict[str, Any], wide: int = 80) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(wide))
        show([*services], 2.0, screen=True, view=View(past={"echo-blue-1": [1.0, 2.0]}, line=HELP))
        lines = re.sub(r"\x1b\[\d*[A-Za-z]", "", capsys.readouterr().out).splitlines()
        assert max(map(len, lines)) <= wide and lines[:2] == HELP.splitlines(), lines
        return [line for line in lines if "INSTANCE" in line]

    busy, idle = service(99.0, 80.0), service(0.0)
    for one in busy["instances"]:
        one |= {"connections": 123_456, "rates": one["rates"] | {"requests": 654_321.0, "p99": 123_456.0}}
    other = idle | {"name": "kv", "instances": [one | {"connections": 0} for one in idle["instances"]]}
    first, second = heads(busy, other)
    assert first == second and "SLOTS" not in first
    idle["instances"][0] |= {"connections": 1, "rates": idle["instances"][0]["rates"] | {"p99": None, "requests": 1.0}}
    assert heads(idle) == heads(service(100.0)), "it stays where it was"
    for one in other["instances"]:
        one["rates"] |= {"requests": None, "p50": None, "p99": None}
    (foreign,) = heads(other)
    assert "REQ/S" not in foreign and foreign.endswith("LAST"), "there is room for the sparkline then"


def test_a_service_that_is_down_has_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    show([service() | {"down": "root@host: portfleet up echo"}], 2.0, screen=False)
    assert capsys.readouterr().out.splitlines()[2:] == ["echo  down by root@host: portfleet up echo", ""]


def test_bytes_are_those_of_the_daemon_or_of_the_kernel() -> None:
    before, after = Sample(1.0, 1, 0.0, 9, bytes=(100, 1000)), Sample(3.0, 1, 0.0, 9, bytes=(300, 900))
    found = rates(before, after)
    assert found is not None and (found.bytes_in, found.bytes_out) == (100.0, 0.0)
    taken = sample(os.getpid(), None, Traffic(5, 70, 700))
    assert taken is not None and (taken.accepted, taken.bytes) == (5, (70, 700))
    told = Status(DaemonState.READY, 1, accepted=9, bytes_in=1, bytes_out=2)
    taken = sample(os.getpid(), told, Traffic(5, 70, 700))
    assert taken is not None and (taken.accepted, taken.bytes) == (9, (1, 2))


def test_the_kernel_tells_connects_and_bytes_of_a_port() -> None:
    meter = TrafficMeter()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as old, server.accept()[0] as serving:
            old.sendall(b"x" * 100)
            serving.recv(100, socket.MSG_WAITALL)
            assert meter.look(port) == Traffic(0, 0, 0), "what was there before is old"
            with socket.create_connection(("127.0.0.1", port)) as fresh, server.accept()[0] as other:
                for one, size in ((fresh, 20), (old, 30)):
                    one.sendall(b"x" * size)
                other.recv(20, socket.MSG_WAITALL)
                serving.recv(30, socket.MSG_WAITALL)
                serving.sendall(b"y" * 7)
                old.recv(7, socket.MSG_WAITALL)
                assert meter.look(port) == Traffic(1, 50, 7)
            assert meter.look(port).connects == 1


def order(*, sort: str, only: str = "") -> list[str]:
    told = service(12.4, None, 99.6)
    for number, one in enumerate(told["instances"]):
        one["connections"], one["name"] = number, one["name"].replace("-3", "-10")
    return [entry["name"] for entry in chosen(told, View(sort=sort, filter=only))]


def test_it_is_sorted_and_filtered_as_asked() -> None:
    assert order(sort="cpu") == ["echo-blue-10", "echo-blue-1", "echo-blue-2"]
    assert order(sort="connections") == ["echo-blue-10", "echo-blue-2", "echo-blue-1"]
    assert order(sort="name") == ["echo-blue-1", "echo-blue-2", "echo-blue-10"]
    assert order(sort="name", only="-2") == ["echo-blue-2"] and len(order(sort="name", only="ready")) == 3
    for sort in SORTS:
        assert len(order(sort=sort)) == 3


def test_a_narrow_terminal_gets_fewer_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = View()
    for number in range(20):
        remember(view.past, [service(*(float(number + one) for one in range(3)))])
    assert {len(past) for past in view.past.values()} == {12}
    for columns, shown in (("200", {"LAST", "P50", "IN/S"}), ("80", {"P99", "CPU"}), ("20", {"CPU", "CONNS"})):
        monkeypatch.setenv("COLUMNS", columns)
        show([service(1.0, 2.0)], 2.0, screen=True, view=view)
        head = next(line for line in capsys.readouterr().out.splitlines() if "INSTANCE" in line).replace("\x1b[K", "")
        assert shown <= set(head.split())
        assert len(head) <= int(columns) or columns == "20"


def test_a_sparkline_is_a_bar_a_value() -> None:
    assert spark([0, 1, 4, 7.9, 8]) == "▁▂▅██" and spark([0, 0]) == "▁▁" and spark([]) == ""


def press(view: View, controls: Controls, *keys: str) -> Wish | None:
    found = None
    for key in keys:
        found = controls.press(key, ["a-blue-1", "a-blue-2"])
    return found


def test_keys_sort_select_and_filter() -> None:
    view = View()
    controls = Controls(view)
    press(view, controls, "n")
    assert view.sort == "connections"
    press(view, controls, "down")
    assert view.selected == "a-blue-1"
    press(view, controls, "j", "down")
    assert view.selected == "a-blue-2"
    press(view, controls, "up", "k")
    assert view.selected == "a-blue-1"
    press(view, controls, "/", *"q2x", "backspace", "enter")
    assert view.filter == "q2" and view.line == HELP and not controls.ended
    press(view, controls, "/", "d", "escape", "q")
    assert view.filter == "" and controls.ended


def test_a_drain_is_asked_for_and_only_a_yes_does_it() -> None:
    view = View()
    controls = Controls(view)
    assert press(view, controls, "d") is None and "select an instance first" in view.line
    asked = press(view, controls, "down", "d")
    assert asked == Wish("drain", "a-blue-1", sure=False)
    controls.ask(asked, "would drain a-blue-1")
    assert view.line == "would drain a-blue-1. Do it? [y/N]"
    assert press(view, controls, "enter") is None and view.line == HELP
    assert press(view, controls, "y") is None, "the question is over"
    controls.ask(Wish("undrain", "a-blue-1", sure=False), "would undrain a-blue-1")
    assert press(view, controls, "y") == Wish("undrain", "a-blue-1", sure=True)


def test_keys_that_are_no_characters_have_names() -> None:
    assert named("a\x1b[A\x1b[B\x1b[15~\x1bOP\r\x7f\x1bä") == ["a", "up", "down", "enter", "backspace", "escape", "ä"]
