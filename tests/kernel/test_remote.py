"""Instances on another box: reached by clients, not by clients of this box, who get the local instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from portfleet.dataplane.nft import capabilities
from support.fleet_box import fleet_box
from support.fleets import problems
from support.plane import HERE, Plane, close, plane
from support.sandbox import client4, client6

REMOTE4 = """
[service.echo]
listen = ["0.0.0.0:7000"]
command = ["portfleet-daemon", "--port", "{port}"]
ports = "7100-7115"
instances = 2
remote = ["203.0.113.2:7101"]
"""
REMOTE6 = REMOTE4.replace('"0.0.0.0:7000"', '"[::]:7000"').replace("203.0.113.2:7101", "[2001:db8:2::2]:7101")
FOUR = [client4(number * 409) for number in range(200)]
SIX = [client6(number * 204) for number in range(200)]
_LOCAL = """
import socket, sys
for host in sys.argv[1:]:
    for _ in range(60):
        with socket.create_connection((host, 7000), timeout=5) as connection:
            connection.sendall(b"x\\n")
            print(connection.recv(100).split()[0].decode())
"""


@pytest.fixture
def rules(tmp_path: Path) -> Iterator[Plane]:
    """A data plane with a second box, whose answering server says its name and what address it sees."""
    with plane(tmp_path / "rules.json", other=True) as made:
        other = made.boxes.other
        assert other is not None
        server = other.popen("/usr/bin/python3", str(HERE / "answerer.py"), "echo-remote-1:7101")
        assert server.stdout is not None and server.stdout.readline()
        for family in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            made.boxes.host.sysctl(f"net.{family}", "1")
        yield made
        close(server)


@pytest.mark.parametrize(("text", "clients"), [(REMOTE4, FOUR), (REMOTE6, SIX)])
def test_clients_get_their_share_of_the_remote_one(rules: Plane, text: str, clients: list[str]) -> None:
    rules.load(text)
    rules.serve()
    met = Counter(rules.met(clients).values())
    assert met.keys() == {"echo-blue-1", "echo-blue-2", "echo-remote-1"}
    assert met["echo-remote-1"] > 40
    rules.point(["echo-remote-1"])
    assert rules.met(clients).keys() and "echo-remote-1" not in rules.met(clients).values()


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "hosts"),
    [(REMOTE4, ("127.0.0.1", "192.0.2.1", "203.0.113.1")), (REMOTE6, ("::1", "2001:db8::1", "2001:db8:2::1"))],
)
def test_clients_of_this_box_get_local_instances(rules: Plane, text: str, hosts: tuple[str, ...]) -> None:
    rules.load(text + 'affinity = "connection"\n')
    rules.serve()
    lines = rules.boxes.host.run("/usr/bin/python3", "-c", _LOCAL, *hosts).stdout.split()
    assert Counter(lines).keys() == {"echo-blue-1", "echo-blue-2"} and len(lines) == 60 * len(hosts)
    rules.point(["echo-blue-2"])
    lines = rules.boxes.host.run("/usr/bin/python3", "-c", _LOCAL, *hosts).stdout.split()
    assert set(lines) == {"echo-blue-1"}


def test_the_remote_box_sees_this_box_and_not_the_client(rules: Plane) -> None:
    rules.load(REMOTE4 + "weight = { 1 = 0, 2 = 0, remote-1 = 1 }\n")
    assert set(rules.met(FOUR[:50]).values()) == {"echo-remote-1"}
    other = rules.boxes.other
    assert other is not None
    seen = other.run("ss", "-tnH", "state", "all", "sport", "=", ":7101").stdout
    peers = {line.split()[-1].rsplit(":", 1)[0].strip("[]").removeprefix("::ffff:") for line in seen.splitlines()}
    assert peers - {"0.0.0.0", "*", "::"} <= {"203.0.113.1"}


def test_without_remote_instances_again_nothing_of_it_is_left(rules: Plane) -> None:
    rules.load(REMOTE4)
    rules.load("\n".join(line for line in REMOTE4.splitlines() if not line.startswith("remote")))
    assert rules.is_as_wanted()
    listing = rules.boxes.host.run("nft", "list", "ruleset").stdout
    assert not any(word in listing for word in ("local_", "local-", "dnat ip to 203.0.113.2", "remote-1"))
    assert "elements" not in rules.boxes.host.run("nft", "list", "set", "inet", "portfleet", "remotes4").stdout


def said(text: str) -> str:
    return "\n".join(map(str, problems(text)))


def test_what_cannot_work_is_an_error_with_a_hint() -> None:
    both = REMOTE4.replace("0.0.0.0:7000", ":7000")
    assert '"203.0.113.2:7101" takes IPv4 only, but listen ":7000" lets IPv6 clients in' in said(both)
    assert 'listen on "0.0.0.0:7000"' in said(both)
    local = said(REMOTE4.replace("0.0.0.0:7000", "127.0.0.1:7000"))
    assert "clients on this box only" in local and "hint:" in local
    for address in ("127.0.0.1:7101", "0.0.0.0:7101"):
        assert "remote[0]" in said(REMOTE4.replace("203.0.113.2:7101", address))


def test_forwarding_and_the_kernel_are_looked_at_before_anything_is_begun() -> None:
    with fleet_box() as box:
        box.write(REMOTE4)
        off = "remote[0]: net.ipv4.ip_forward is 0: this box would not forward clients' packets to 203.0.113.2:7101"
        for verb in ("check", "up"):
            done = box.portfleet(verb, check=False)
            assert done.returncode == 2 and off in done.stderr and "sysctl -w net.ipv4.ip_forward=1" in done.stderr
        assert box.rules() == ""
        box.boxes.host.sysctl("net.ipv4.ip_forward", "1")
        box.portfleet("check")


def test_this_kernel_lacks_nothing(rules: Plane) -> None:
    assert capabilities.missing() == []
    assert not any("owner" in needed.rules for needed in capabilities.NEEDED), "the keeper can be done without"
    assert rules.boxes.host.run("nft", "list", "ruleset").stdout == ""


def test_what_is_missing_is_said(rules: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = capabilities.Capability("rules from the future", "chain c { teleport }", "nobody moves")
    monkeypatch.setattr(capabilities, "NEEDED", (*capabilities.NEEDED, bad))
    assert capabilities.missing() == ["rules from the future: without it nobody moves"]
