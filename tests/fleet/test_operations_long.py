"""The long form: talking connections and steady connects through 20 cutovers and rollbacks in a row."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from support.drained import REDIS_TWO, ends, load_redis, per_second
from support.fleet_box import FleetBox
from support.operated import TOLD, counts_its_sockets, operated
from support.sandbox import HOST4, client4, wait_for

pytestmark = pytest.mark.both_planes

_CLIENTS = str(Path(__file__).parents[1] / "support" / "clients.py")
#: Clients share two CPUs with the fleet: each asks every five seconds, 1,000 requests a second in all.
_HELD, _CONNECTS, _INTERVAL, _PROCESSES = 5000, 50, 5.0, 2
_TURNS = 20


@contextmanager
def crowd(box: FleetBox) -> Iterator[list[dict[str, Any]]]:
    """Hold 5,000 connections that ask all the time, with 50 new ones a second; gives the clients' reports."""
    processes: list[subprocess.Popen[str]] = []
    reports: list[dict[str, Any]] = []
    share = _HELD // _PROCESSES
    try:
        for number in range(_PROCESSES):
            clients = box.boxes.clients.popen(sys.executable, _CLIENTS, "hold")
            processes.append(clients)
            job = {
                "to": [HOST4, 7000],
                "sources": [client4(i) for i in range(number * share, (number + 1) * share)],
                "from": [client4(i) for i in range(_HELD + number * 3000, _HELD + number * 3000 + 3000)],
                "connects": _CONNECTS / _PROCESSES,
                "interval": _INTERVAL,
                "timeout": 20,
                "message": "who {id}\n",
            }
            assert clients.stdin is not None
            clients.stdin.write(json.dumps(job) + "\n")
            clients.stdin.flush()
        for clients in processes:
            assert clients.stdout is not None and clients.stdout.readline() == "up\n"
        yield reports
        reports += [json.loads(clients.communicate("\n", timeout=120)[0]) for clients in processes]
    finally:
        for clients in processes:
            clients.kill()
            clients.wait()


@pytest.mark.full
def test_twenty_cutovers_and_rollbacks_with_5000_connections() -> None:
    took: dict[str, list[float]] = defaultdict(list)
    with operated(TOLD.replace('"8s"', '"30s"')) as box:
        with crowd(box) as reports:
            for turn in range(_TURNS):
                verb = ("rollback", "echo") if turn % 2 else ("cutover", "echo", "--release", f"v{turn + 2}")
                done = json.loads(box.portfleet(*verb, "--json").stdout)
                assert done["ok"], done
                for phase, seconds in re.findall(r"(ready|switch|move) ([\d.]+) s", done["outcome"]):
                    took[phase].append(float(seconds))
            last = json.loads(box.portfleet("cutover", "echo", "--release", "last", "--json").stdout)
            assert last["ok"], last
            wait_for(
                "counts are the sockets",
                lambda: counts_its_sockets(box),
            )
            until = time.monotonic() + 2 * _INTERVAL
            wait_for("each has been asked again", lambda: time.monotonic() > until)
            at_end = Counter(f["colour"] for f in box.status().values() for _ in range(f["connections"]))
        held = [one for report in reports for one in report["held"]]
        connects = Counter[str]()
        for report in reports:
            connects += Counter({key: report["connects"][key] for key in ("done", "refused", "reset")})
        lost = [one["error"] for one in held if one["lost"]]
        releases = Counter(one["seen"][-1].partition("/")[2] for one in held)
        for phase, seconds in took.items():
            print(f"{phase}: median {median(seconds):.2f} s, longest {max(seconds):.2f} s")
        replies = sum(one["replies"] for one in held)
        print(
            f"{len(held)} held, {replies:,} replies, lost {len(lost)}; connects {dict(connects)}; at the end {at_end}"
        )
        assert lost == []
        assert connects["refused"] == connects["reset"] == 0 and connects["done"] > 0
        assert set(at_end) == {"green"} and releases == {"last": _HELD}


@pytest.mark.full
def test_twenty_cutovers_and_rollbacks_of_redis_which_are_drained_at_the_rate() -> None:
    config = REDIS_TWO.replace("[service.kv.probe]", "[service.kv.drain]\nrate = 100\n[service.kv.probe]")
    counts: list[int] = []
    with operated(config) as box, load_redis(box, held=0, connects=50) as report:
        for turn in range(_TURNS):
            with ends(box, port=6000, number=400, message="PING\r\n") as ended:
                done = json.loads(box.portfleet(*(("rollback", "kv") if turn % 2 else ("cutover", "kv", "--force")),
                                                "--json").stdout)  # fmt: skip
                assert done["ok"], done
            assert len(ended) == 400, (turn, len(ended))  # by the policy, and not before
            counts += per_second(ended)
    print(f"{_TURNS} turns with 400 connections each, ended per second: {min(counts)} to {max(counts)}, asked 100")
    print(f"connects: {report['connects']}")
    assert len(counts) >= 2 * _TURNS and all(90 <= count <= 110 for count in counts), counts
    connects = report["connects"]
    assert connects["refused"] == connects["reset"] == 0 and connects["done"] > 1000
