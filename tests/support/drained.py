"""What tests of drains share: a fleet of redis, and clients that note when their connections end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.fleet_box import REDIS, FleetBox
from support.sandbox import HOST4, client4

_ENDS, _CLIENTS = (str(Path(__file__).with_name(name)) for name in ("ends.py", "clients.py"))
#: One at a time would take a minute.
REDIS_TWO = REDIS.replace("instances = 4", "instances = 2")


@contextmanager
def ends(box: FleetBox, *, port: int, number: int, message: str) -> Iterator[list[float]]:
    """Hold ``number`` quiet connections to ``port``; gives the times (monotonic) at which they ended, at the end."""
    job = {"to": [HOST4, port], "sources": [client4(i) for i in range(number)], "message": message}
    clients = box.boxes.clients.popen(sys.executable, _ENDS)
    assert clients.stdin is not None and clients.stdout is not None
    ended: list[float] = []
    try:
        clients.stdin.write(json.dumps(job) + "\n")
        clients.stdin.flush()
        assert clients.stdout.readline() == "up\n"
        yield ended
        ended += json.loads(clients.communicate("\n", timeout=60)[0])
    finally:
        clients.kill()
        clients.wait()


def per_second(ended: list[float]) -> list[int]:
    """Return how many ended in each whole second from the first end on, the last (partial) one left out."""
    first = min(ended)
    counts = [0] * (int(max(ended) - first) + 1)
    for at in ended:
        counts[int(at - first)] += 1
    return counts[:-1]


@contextmanager
def load_redis(box: FleetBox, *, held: int, connects: int) -> Iterator[dict[str, Any]]:
    """Hold connections that PING all the time, with ``connects`` new ones a second beside them; gives the report."""
    clients = box.boxes.clients.popen(sys.executable, _CLIENTS, "hold")
    job = {
        "to": [HOST4, 6000], "sources": [client4(i) for i in range(held)], "message": "PING\r\n",
        "connects": connects, "from": [client4(i) for i in range(1000, 3000)],
    }  # fmt: skip
    assert clients.stdin is not None and clients.stdout is not None
    report: dict[str, Any] = {}
    try:
        clients.stdin.write(json.dumps(job) + "\n")
        clients.stdin.flush()
        assert clients.stdout.readline() == "up\n"
        yield report
        report |= json.loads(clients.communicate("\n", timeout=60)[0])
    finally:
        clients.kill()
        clients.wait()
