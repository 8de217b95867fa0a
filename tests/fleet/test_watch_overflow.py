"""What a full instance cannot take goes to the least loaded of the others, by their sockets."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from portfleet.dataplane.haproxy.client import ask
from support.fleet_box import HOME, REDIS, FleetBox, fleet_box
from support.sandbox import HOST4, client4, wait_for

_CLIENTS = str(Path(__file__).parents[1] / "support" / "clients.py")
#: Three of a daemon that cannot count its connections for the balancer; more than one HAProxy would count shares.
FEW = "[fleet]\nhaproxy_processes = 1\n" + REDIS.replace("instances = 4", "instances = 3\nmax_connections = 10")


@contextmanager
def held(box: FleetBox, sources: Sequence[str]) -> Iterator[None]:
    """Hold a connection from each of ``sources`` while the block runs."""
    process = box.boxes.clients.popen(sys.executable, _CLIENTS, "hold")
    assert process.stdin is not None and process.stdout is not None
    try:
        job = {"to": [HOST4, 6000], "sources": list(sources), "message": "PING\r\n", "interval": 0.5}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "up\n"
        yield
    finally:
        process.kill()
        process.communicate()


def first_tried(box: FleetBox) -> str:
    """Return the instance that is tried first where another is full, as the data plane has it."""
    if box.plane == "haproxy":
        place = box.boxes.host.path(f"{HOME}/run/haproxy/haproxy-1.sock")
        found = re.search(
            r"^\S+ 0 (\S+)$", ask(place, f"show map {HOME}/run/haproxy/services/kv.overflow"), re.MULTILINE
        )
        return found[1] if found else ""
    listing = box.rules("map", "inet", "portfleet", "overflow-kv")
    return listing.partition(" 0 : jump try_")[2].split()[0].rstrip(",")


@pytest.mark.long
@pytest.mark.both_planes
def test_the_overflow_goes_to_the_least_loaded() -> None:
    with fleet_box(FEW) as box, ExitStack() as stack:
        homes: dict[str, list[str]] = {}
        for source, name in box.explain("kv", [client4(number) for number in range(200)]).items():
            homes.setdefault(name, []).append(source)

        def connect(name: str, count: int) -> None:
            """Hold ``count`` more connections from addresses whose home is the instance ``name``."""
            stack.enter_context(held(box, [homes[name].pop() for _ in range(count)]))

        def has(*counts: int) -> None:
            """Wait until the three have these connections: a probe is one too, for a moment."""
            wait_for(
                f"they have {counts}", lambda: tuple(i["connections"] for i in box.status().values())[:3] == counts
            )

        connect("kv-blue-1", 10)
        connect("kv-blue-2", 6)
        wait_for("the third is tried first", lambda: first_tried(box) == "kv-blue-3")
        connect("kv-blue-1", 4)
        has(10, 6, 4)
        connect("kv-blue-3", 5)
        wait_for("the second is tried first", lambda: first_tried(box) == "kv-blue-2")
        connect("kv-blue-1", 3)
        has(10, 9, 9)
        box.settled()


@pytest.mark.long
def test_a_service_gets_and_loses_its_limit_by_one_apply() -> None:
    without = REDIS.replace("instances = 4", "instances = 2")
    with fleet_box(without) as box:
        sources = [source for source, name in _homes(box) if name == "kv-blue-1"][:4]
        box.write(without.replace("instances = 2", "instances = 2\nmax_connections = 3"))
        box.portfleet("apply")
        box.settled()
        with held(box, sources[:3]), held(box, sources[3:]):
            wait_for("one overflowed", lambda: [i["connections"] for i in box.status().values()][:2] == [3, 1])
        box.write(without)
        box.portfleet("apply")
        box.settled()
        with held(box, sources):
            wait_for("none overflows", lambda: [i["connections"] for i in box.status().values()][:2] == [4, 0])


def _homes(box: FleetBox) -> list[tuple[str, str]]:
    """Return sources beside the instances that their slots are of."""
    return list(box.explain("kv", [client4(number) for number in range(40)]).items())
