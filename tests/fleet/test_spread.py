"""The main job: clients' connections are spread by the kernel, every client keeps its instance, explain knows which."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.fleet_box import ECHO, REDIS, FleetBox, fleet_box
from support.forms import forms
from support.sandbox import HOST4, HOST6, client4, client6, wait_for

#: A thousand IPv4 addresses and a thousand IPv6 /64s.
ADDRESSES = [client4(number) for number in range(1000)] + [client6(number) for number in range(1000)]


@dataclass(frozen=True)
class Case:
    """A fleet of one service of four; ``port`` is the service's, instances listen from ``first`` on."""

    name: str
    fleet: FleetBox
    port: int
    first: int

    def met(self, sources: list[str]) -> dict[str, str]:
        """Return {address: instance}, by the instance's own answer."""
        if self.name == "echo":
            return self.fleet.who(sources)
        ports = self.fleet.redis_ports(sources)
        return {source: f"kv-blue-{port - self.first + 1}" for source, port in ports.items()}


pytestmark = pytest.mark.both_planes


@pytest.fixture(scope="module", params=forms(["echo", "kv"]))
def case(request: pytest.FixtureRequest, plane: str) -> Iterator[Case]:
    """Our own daemon, and redis."""
    name = request.param
    text, port, first = {"echo": (ECHO, 7000, 7100), "kv": (REDIS, 6000, 6100)}[name]
    with fleet_box(text) as fleet:
        yield Case(name, fleet, port, first)


def test_every_client_keeps_the_instance_that_explain_names(case: Case) -> None:
    first = case.met(ADDRESSES)

    again = case.met(ADDRESSES)

    assert again == first
    assert case.fleet.explain(case.name, ADDRESSES) == first
    four, six = (Counter(list(first.values())[begin : begin + 1000]) for begin in (0, 1000))
    for met in (four, six):
        # 1,000 keys over 4: five standard deviations of a fair hash are 68.
        assert len(met) == 4 and all(abs(count - 250) < 69 for count in met.values()), met
    slots = [i["slots"] for i in case.fleet.status().values() if i["colour"] == "blue"]
    assert sum(slots) == 4096 and max(slots) - min(slots) <= 1


def test_every_connection_of_a_prefix_meets_one_instance(case: Case) -> None:
    """All of an IPv6 /64 is one client: its host may change its address every hour."""
    met = case.met([f"2001:db8:1:7::{number:x}" for number in range(1, 60)])
    assert len(set(met.values())) == 1


@pytest.mark.long
def test_up_and_apply_again_change_nothing(case: Case) -> None:
    case.fleet.calm()
    before = case.fleet.snapshot()

    for verb in ("apply", "up", "apply"):
        said = case.fleet.portfleet(verb)
        assert "already up to date" in said.stdout
        assert case.fleet.snapshot() == before
    assert case.fleet.portfleet("plan").stdout == "nothing to do: the fleet matches the config\n"


@pytest.mark.long
def test_a_killed_instance_comes_back_and_its_clients_with_it(case: Case) -> None:
    case.fleet.settled()
    before, victim = case.met(ADDRESSES[:200]), f"{case.name}-blue-2"
    pid = case.fleet.status()[victim]["pid"]

    case.fleet.boxes.host.run("kill", f"-{signal.SIGKILL}", str(pid))

    def back() -> bool:
        found = case.fleet.status()[victim]
        return (found["state"], found["slots"]) == ("ready", 1024) and found["pid"] != pid

    wait_for(f"{victim} is back with its slots", back)
    case.fleet.settled()
    assert case.met(ADDRESSES[:200]) == before
    others = {name: i for name, i in case.fleet.status().items() if i["colour"] == "blue" and name != victim}
    assert all(i["state"] == "ready" for i in others.values())


DIAL = """
import socket, sys, time
host, ports = sys.argv[1], range(int(sys.argv[2]), int(sys.argv[2]) + 4)
for port in ports:
    began = time.monotonic()
    try:
        socket.create_connection((host, port), timeout=5)
        print("connected")
    except OSError as error:
        print(type(error).__name__, time.monotonic() - began < 1)
"""


@pytest.mark.parametrize("host", [HOST4, HOST6])
def test_nobody_outside_reaches_an_instance_past_the_balancer(case: Case, host: str) -> None:
    dial = ("python3", "-c", DIAL, host, str(case.first))
    assert case.fleet.boxes.clients.run(*dial).stdout == "ConnectionRefusedError True\n" * 4
    inside = (
        "python3",
        "-c",
        DIAL,
        "127.0.0.1" if host == HOST4 or case.fleet.plane == "haproxy" else "::1",
        str(case.first),
    )
    assert case.fleet.boxes.host.run(*inside).stdout == "connected\n" * 4, "operators on the box may look"


def test_local_clients_are_balanced_too(case: Case) -> None:
    script = DIAL.replace("port in ports", "port in [int(sys.argv[2])]")
    for host in (HOST4, HOST6, "127.0.0.1"):
        assert case.fleet.boxes.host.run("python3", "-c", script, host, str(case.port)).stdout == "connected\n", host
