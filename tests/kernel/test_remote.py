"""Instances on another box: reached by clients, not by clients of this box, who get the local instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from portfleet.dataplane.nft import capabilities
from support.fleet_box import fleet_box
from support.fleets import problems
from support.plane import HERE, Plane, close, load, plane
from support.sandbox import HOST4, HOST6, client4, client6

REMOTE4 = """
[service.echo]
listen = ["0.0.0.0:7000"]
command = ["portfleet-daemon", "--port", "{port}"]
ports = "7100-7115"
instances = 2
remote = ["203.0.113.2:7101"]
"""
REMOTE6 = REMOTE4.replace('"0.0.0.0:7000"', '"[::]:7000"').replace("203.0.113.2:7101", "[2001:db8:2::2]:7101")
#: All clients go to the remote instance.
ALONE = "weight = { 1 = 0, 2 = 0, remote-1 = 1 }\n"
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
    rules.load(REMOTE4 + ALONE)
    assert peers_of(rules, FOUR) == {"203.0.113.1"}


def peers_of(rules: Plane, clients: list[str]) -> set[str]:
    """Return the addresses from which clients reach the remote instance, which takes all of them."""
    assert rules.boxes.other is not None
    with load(rules, clients[:20], host=HOST6 if ":" in clients[0] else HOST4) as talking:
        seen = rules.boxes.other.run("ss", "-tnH", "state", "established", "sport", "=", ":7101").stdout
    assert talking.seen == {"echo-remote-1": 20}
    return {line.split()[-1].rsplit(":", 1)[0].strip("[]").removeprefix("::ffff:") for line in seen.splitlines()}


@pytest.mark.parametrize(
    ("text", "clients", "source"), [(REMOTE4, FOUR, "203.0.113.100"), (REMOTE6, SIX, "2001:db8:2::100")]
)
def test_the_remote_box_sees_the_address_that_moves(rules: Plane, text: str, clients: list[str], source: str) -> None:
    rules.boxes.host.run("ip", "addr", "add", f"{source}/{128 if ':' in source else 32}", "dev", "lo")
    assert rules.boxes.other is not None
    rules.boxes.other.run("ip", "route", "add", source, "via", "2001:db8:2::1" if ":" in source else "203.0.113.1")
    rules.load(f'{text}{ALONE}remote_snat = ["{source}"]\n')
    rules.serve()
    assert rules.is_as_wanted()
    assert peers_of(rules, clients) == {source}
    rules.boxes.host.run("nft", "flush", "map", "inet", "portfleet", f"sources{6 if ':' in source else 4}")
    assert not rules.is_as_wanted(), "a source that is lost is drift"
    rules.load(f"{text}{ALONE}")
    assert rules.is_as_wanted()
    assert peers_of(rules, clients) <= {"203.0.113.1", "2001:db8:2::1"}, "masqueraded again"


@pytest.mark.parametrize(("text", "clients"), [(REMOTE4, FOUR), (REMOTE6, SIX)])
def test_the_remote_box_sees_its_clients(rules: Plane, text: str, clients: list[str]) -> None:
    rules.load(f"{text}{ALONE}remote_snat = []\n")
    rules.serve()
    assert peers_of(rules, clients) == {str(ip_address(client)) for client in clients[:20]}
    assert rules.is_as_wanted()


def test_a_source_that_cannot_be_is_an_error_with_a_hint() -> None:
    for words, what in (
        ('["2001:db8::1"]', 'has no IPv4 address, which remote "203.0.113.2:7101" would have to see'),
        ('["192.0.2.1", "192.0.2.2"]', '"192.0.2.2" is a second one of IPv4'),
        ('["127.0.0.1"]', "no address that another box could answer to"),
        ('["box2"]', '"box2" is not an address'),
        ('["fe80::1%eth0"]', "no address that another box could answer to"),
        ('"192.0.2.1"', "must be a list of strings"),
    ):
        assert what in (found := said(f"{REMOTE4}remote_snat = {words}\n")) and "hint:" in found
    other = REMOTE4.replace("echo", "two").replace("7000", "7001").replace("7100-7115", "7200-7215")
    assert "service echo, which has the instance" in said(f'{REMOTE4}{other}remote_snat = ["192.0.2.1"]\n')


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
