"""The page and the metrics of a made-up fleet, by the real process: for a browser, and to measure large fleets.

python tests/support/page_server.py PORT SERVICES INSTANCES
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.seen import Entry, answering, fleet_told, instance_told, service_told

#: Names as bad as a journal or a daemon can bring them.
HOSTILE = '"><script>document.title="taken"</script><img src=x onerror=alert(1)>\u202edesrever'
_BOUNDS = [round(8 * 2 ** (step / 2), 1) for step in range(43)]


def fleet(services: int, instances: int) -> tuple[Entry, list[Entry]]:
    """Return a fleet with a canary under way in its first service, and something wrong in its second."""
    made, told = [], []
    for number in range(services):
        name = f"service-{number}"
        made.append(service_told(name, release=f"v{number}"))
        told += [instance_told(name, one, slots=4096 // instances) for one in range(1, instances + 1)]
    made[0] |= {"canary": 10, "operation": _canary()}
    made[0]["colours"]["green"] = {"release": HOSTILE, "since": "2026-01-31T12:00:00Z", "keep_until": None}
    told += [instance_told("service-0", one, colour="green", slots=100) for one in range(1, 3)]
    if services > 1:
        mine = [one for one in told if one["service"] == "service-1"]
        mine[0] |= {"state": "ejected", "serving": False, "slots": 0, "why": HOSTILE}
        mine[1] |= {"state": "draining", "wanted": "drained", "serving": False, "slots": 0}
    for one in told:
        one["said"] = dict(one["said"]) | {"bounds": _BOUNDS, "counts": [0] * 44}
    return fleet_told(*made, warnings=[_warning()]), told


def _canary() -> Entry:
    canary = {"colour": "green", "percent": 10, "from": 0, "needed": 20_000}
    return {
        "number": 7, "verb": "cutover", "words": "cutover", "who": HOSTILE, "since": "2026-01-31T12:00:00Z",
        "phase": "canary", "done": 130, "total": 600, "note": "canary at 10 %", "cancelled": False, "failed": "",
        "canary": canary,
    }  # fmt: skip


def _warning() -> Entry:
    text, hint = "conntrack has 250,000 of 262,144 entries", "sysctl -w net.netfilter.nf_conntrack_max=524288"
    return {"name": "conntrack", "since": "2026-01-31T12:00:00Z", "text": text, "hint": hint}


def events(count: int) -> list[Entry]:
    """Return events, one of them with hostile words."""
    words = ["service-1-blue-1 gets no new connections: process 99 ended", HOSTILE, "2 instances are watched"]
    return [
        {"number": number + 1, "time": "2026-01-31T12:00:00.000Z", "kind": "x", "service": "service-1",
         "level": ("warning", "error", "info")[number % 3], "words": words[number % 3]}
        for number in range(count)
    ]  # fmt: skip


def work(told: list[Entry], stop: threading.Event) -> None:
    """Have every instance answer requests, and its connections come and go, twice a second."""
    while not stop.wait(0.5):
        for one in told:
            one["said"]["connections"] = max(0, one["said"]["connections"] + random.randint(-40, 42))
            one["said"]["requests"] += random.randint(100, 900)
            counts = one["said"]["counts"]
            one["said"]["counts"] = [count + (10 < step < 20) * 30 for step, count in enumerate(counts)]


@contextmanager
def page_server(port: int, services: int, instances: int) -> Iterator[subprocess.Popen[Any]]:
    """Run the metrics' process beside a made-up watcher; it answers on ``port`` of 127.0.0.1."""
    found, told = fleet(services, instances)
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as home:
        Path(home, "run").mkdir()
        with answering(Path(home, "run/seen.sock"), found, told, events(9)):
            threading.Thread(target=work, args=(told, stop), daemon=True).start()
            words = ("-m", "portfleet", "--home", home, "metrics", "--serve", f"127.0.0.1:{port}")
            process = subprocess.Popen([sys.executable, *words])
            try:
                yield process
            finally:
                stop.set()
                process.terminate()
                process.wait(10)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with page_server(*map(int, sys.argv[1:4])):
        while True:
            time.sleep(1)
