"""Dead and hung instances: clients that come meanwhile wait for another instance instead of being refused."""

from __future__ import annotations

import threading
import time

import pytest

from portfleet.core.changes import InstanceRule
from support.plane import Plane, explained, load
from support.sandbox import HOST4, HOST6, client4, client6, wait_for

SOURCES = [client4(number * 409) for number in range(100)]


def homed_at(rules: Plane, name: str, sources: list[str]) -> list[str]:
    """Return those of ``sources`` whose slot points at ``name``."""
    found = explained(rules, "echo", [{"source": source, "port": 0} for source in sources])
    return [source for source, who in zip(sources, found, strict=True) if who == name]


def rule_of(rules: Plane, name: str) -> InstanceRule:
    return next(want.rule for want in rules.desired.instances() if want.name == name)


@pytest.mark.timed
def test_kill_9_under_connects_refuses_nobody(rules: Plane) -> None:
    rules.load()
    rules.serve()
    with load(rules, SOURCES, connects=100, interval=0.5) as clients:
        for name in ("echo-blue-2", "echo-blue-3"):
            rules.signal(name, "KILL")
            time.sleep(0.5)  # how late the ejection is, not a wait for anything
            rules.point([name])
            rules.kernel.connections.forget_unanswered(rule_of(rules, name))
            rules.serve(names=[name])
            rules.point()
    connects = clients.report["connects"]
    print(connects)
    assert connects["refused"] == 0 and connects["done"] > 100
    assert connects["slowest"] < 3.5
    # Who was connected to the dead, and no other.
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


@pytest.mark.timed
@pytest.mark.parametrize("client", [client4, client6])
def test_clients_waiting_for_a_hung_instance_are_served_by_another(rules: Plane, client: object) -> None:
    rules.load()
    rules.serve("--backlog", "1")
    sources = [client(number * 409 % 60_000) for number in range(200)]  # type: ignore[operator] # client4 or client6
    first, second, *rest = homed_at(rules, "echo-blue-1", sources)
    waiting = rest[:10]
    rules.met(homed_at(rules, "echo-blue-2", sources)[:1])  # from now on the neighbours know each other
    rules.signal("echo-blue-1", "STOP")
    # One after the other: in a burst more of them would get a SYN cookie and be connected, for all they know.
    for source in (first, second):
        assert "reset: TimeoutError" in rules.ask([source], timeout=0.5)[0]["error"]
    queued, room = rules.boxes.host.run("ss", "-ltnH", "sport", "=", ":7100").stdout.split()[1:3]
    assert int(queued) > int(room)  # its accept queue is full

    reports: list[dict[str, object]] = []
    began = time.monotonic()
    asking = threading.Thread(target=lambda: reports.extend(rules.ask(waiting, timeout=8)))
    asking.start()
    unanswered = ("conntrack", "-L", "-p", "tcp", "-f", "ipv6" if ":" in first else "ipv4", "--state", "SYN_SENT")
    wait_for("all wait", lambda: len(rules.boxes.host.run(*unanswered).stdout.splitlines()) == len(waiting))
    ejected = time.monotonic()
    rules.point(["echo-blue-1"])
    forgotten = rules.kernel.connections.forget_unanswered(rule_of(rules, "echo-blue-1"))
    asking.join()
    served = [report for report in reports if report["reply"]]
    print(f"{forgotten} half-open entries forgotten, {len(served)} of {len(waiting)} clients served by others")
    assert forgotten == len(served) == len(waiting)
    assert all(began + float(str(report["seconds"])) - ejected < 2 for report in served), reports
    assert all("echo-blue-1" not in str(report["reply"]) for report in served)
    rules.signal("echo-blue-1", "CONT")
