"""What `top` computes from two samples, and how it lays that out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from portfleet.core.counters import Counters
from portfleet.daemons.rates import Rates, Sample, rates, sample
from portfleet.screen.top import show

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
        busy = None if cpu is None else vars(Rates(cpu, 21_400_000, 3.0, 12_345.6, 45.3, 1448.2))
        return {"name": f"echo-blue-{number}", "state": "ready", "slots": 1024, "connections": 5000, "rates": busy}

    instances = [instance(number, cpu) for number, cpu in enumerate(cpus, 1)]
    return {"name": "echo", "live": "blue", "down": None, "instances": instances}


def test_the_busiest_is_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    show([service(12.4, None, 99.6)], 2.0, screen=False)
    first, blank, sums, head, *rows, end = capsys.readouterr().out.split("\n")[:-1]
    assert first.endswith("  every 2 s") and (blank, end) == ("", "")
    assert sums == "echo  live blue  15,000 connections  6 new/s  24,691 requests/s"
    assert " ".join(head.split()) == "INSTANCE STATE SLOTS CONNS NEW/S REQ/S P50 P99 CPU MEMORY"
    assert [" ".join(row.split()) for row in rows] == [
        "echo-blue-3 ready 1,024 5,000 3 12,346 45 µs 1.4 ms 100 % 21 MB",
        "echo-blue-1 ready 1,024 5,000 3 12,346 45 µs 1.4 ms 12 % 21 MB",
        "echo-blue-2 ready 1,024 5,000 - - - - - -",
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
