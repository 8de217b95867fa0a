"""Dead and hung instances: clients that come meanwhile wait for another instance instead of being refused."""

from __future__ import annotations

import threading
import time

import pytest

from portfleet.kernel.conntrack import forget_half_open
from support.plane import Plane, explained, load
from support.sandbox import HOST4, HOST6, client4, client6, wait_for

SOURCES = [client4(number * 409) for number in range(100)]


def homed_at(rules: Plane, name: str, sources: list[str]) -> list[str]:
    """Give those of ``sources`` whose slot points at ``name``."""
    found = explained(rules, "echo", [{"source": source, "port": 0} for source in sources])
    return [source for source, who in zip(sources, found, strict=True) if who == name]


def mark_of(rules: Plane, name: str) -> int:
    return next(want.rule.mark for want in rules.desired.instances() if want.name == name)


def test_kill_9_under_connects_refuses_nobody(rules: Plane) -> None:
    rules.load()
    rules.serve()
    with load(rules, SOURCES, connects=100, interval=0.5) as clients:
        for name in ("echo-blue-2", "echo-blue-3"):
            port = next(want.rule.port for want in rules.desired.instances() if want.name == name)
            rules.signal(name, "KILL")
            time.sleep(0.5)  # how late the ejection is, not a wait for anything
            rules.point([name])
            forget_half_open(mark_of(rules, name))
            rules.start(name, port)
            rules.await_up(name)
            rules.point()
    connects = clients.report["connects"]
    print(connects)
    assert connects["refused"] == 0 and connects["done"] > 100
    assert connects["slowest"] < 3.5
    # Who was connected to the dead, and nobody else.
    assert {name for one in clients.lost for name in one["seen"]} <= {"echo-blue-2", "echo-blue-3"}


_AGAIN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
for attempt in range(5):
    with socket.socket(family) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.settimeout(3)
        connection.bind((sys.argv[2], 23456))
        connection.connect((sys.argv[1], 7000))
        connection.sendall(b"x\\n")
        print(connection.recv(100).decode().split()[0])
        assert connection.recv(100) == b""  # the server closes first: TIME_WAIT is on its side
"""


@pytest.mark.parametrize(("host", "source"), [(HOST4, client4(3)), (HOST6, client6(3))])
def test_a_source_port_used_again_at_once(rules: Plane, host: str, source: str) -> None:
    rules.load()
    rules.serve("--first")
    said = rules.boxes.clients.run("/usr/bin/python3", "-c", _AGAIN, host, source).stdout.split()
    assert len(said) == 5 and len(set(said)) == 1 and homed_at(rules, said[0], [source]) == [source]


@pytest.mark.parametrize("client", [client4, client6])
def test_clients_waiting_for_a_hung_instance_are_served_by_another(rules: Plane, client: object) -> None:
    rules.load()
    rules.serve("--backlog", "1")
    sources = [client(number * 409 % 60_000) for number in range(200)]  # type: ignore[operator] # client4 or client6
    waiting = homed_at(rules, "echo-blue-1", sources)[:12]
    rules.signal("echo-blue-1", "STOP")
    job = {"timeout": 8}
    began = time.monotonic()

    reports: list[dict[str, object]] = []
    asking = threading.Thread(target=lambda: reports.extend(rules.ask(waiting, **job)))
    asking.start()

    def stuck() -> bool:
        listing = rules.boxes.host.run("ss", "-tnH", "state", "syn-recv", "state", "established").stdout
        full = rules.boxes.host.run("ss", "-ltnH", "sport", "=", ":7100").stdout.split()
        return bool(listing) and int(full[1]) > int(full[2])

    wait_for("its queue is full", stuck)
    ejected = time.monotonic()
    rules.point(["echo-blue-1"])
    forgotten = forget_half_open(mark_of(rules, "echo-blue-1"))
    asking.join()
    served = [report for report in reports if report["reply"]]
    print(f"{forgotten} half-open entries forgotten, {len(served)} of {len(waiting)} clients served by others")
    # Two are in the hung one's accept queue for good: connected, for all they know.
    assert len(served) >= len(waiting) - 2
    assert all(began + float(str(report["seconds"])) - ejected < 2 for report in served), reports
    assert all("echo-blue-1" not in str(report["reply"]) for report in served)
    rules.signal("echo-blue-1", "CONT")
