"""Any number of balancers, which know no connection: they are lost one after the other, and no connection is.

Two boxes have the fleet, three send packets on to them, a router sends each packet to any of the three (BIRD, BGP and
BFD): real kernels' network stacks and routes, in namespaces. On booted hosts: `script/hosts ecmp`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from support.ecmp import CLIENTS, SERVICE, Segment, Talk, addresses, segment, words
from support.fleet_box import HOME, PORTFLEET
from support.fleets import ECHO_TWO
from support.sandbox import client4, client6, wait_for

FLEET = (
    ECHO_TWO
    + """
[service.each]
listen = [":7001"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:echo"]
ports = "7200-7207"
instances = 2
affinity = "connection"
min_ready = "off"
"""
)
#: Asks for a reply of many full segments; its path's MTU has to be found out for it to arrive.
LONG = """
import socket, sys
for source in sys.argv[3:]:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    client = socket.socket(family)
    client.settimeout(10)
    client.bind((source, 0))
    client.connect((sys.argv[1], int(sys.argv[2])))
    client.sendall(b"x" * 30_000 + b"\\n")
    assert len(client.makefile().readline()) == 30_001
"""
#: A datagram to a port without a service.
NOBODY = """
import socket, sys
for source in sys.argv[2:]:
    client = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(10)
    client.bind((source, 0))
    client.connect((sys.argv[1], 9))
    client.send(b"x")
    try:
        client.recv(1)
    except ConnectionRefusedError:
        print("refused")
"""


@pytest.fixture(scope="module")
def boxes() -> Iterator[Segment]:
    with segment(FLEET, owners=("one", "two", "late"), balancers=("red", "green", "blue"), late=("late",)) as made:
        yield made


def sources(first: int, count: int) -> dict[int, list[str]]:
    """Return clients by family."""
    numbers = range(first, first + count)
    return {4: [client4(number) for number in numbers], 6: [client6(number) for number in numbers]}


def talking(boxes: Segment, first: int, count: int, *, port: int = 7000, connects: int = 10) -> Talk:
    return Talk(boxes.clients.popen, sources(first, count), connects=connects, port=port)


def ended(*talks: Talk) -> None:
    """End them; AssertionError if one lost anything."""
    for talk in talks:
        reports = talk.stop()
        lost = [one for report in reports for one in report["held"] if one["lost"]]
        assert not lost, (words(reports), lost[:3])
        new = [report["connects"] for report in reports]
        assert not any(one["refused"] + one["reset"] for one in new), new


def established(boxes: Segment, name: str, *, port: int = 7000) -> int:
    """Return how many connections to a service a box has."""
    shown = boxes.portfleet(name, "status", "--json").stdout
    services = {service["name"]: service for service in json.loads(shown)["services"]}
    return sum(one["connections"] for one in services["echo" if port == 7000 else "each"]["instances"])


def clients_at(boxes: Segment, name: str, first: int, count: int) -> set[IPv4Address | IPv6Address]:
    """Return which of some clients have connections on a box: those that come and go beside do not count twice."""
    shown = boxes.boxes[name].run("ss", "-tnH", "state", "established").stdout
    there = {line.split()[3].rpartition(":")[0].strip("[]").removeprefix("::ffff:") for line in shown.splitlines()}
    some = sources(first, count)
    return {ip_address(one) for one in some[4] + some[6]} & {ip_address(one) for one in there}


@pytest.fixture(autouse=True)
def all_in(boxes: Segment) -> Iterator[None]:
    """Have the next test find all boxes in, also after one that failed."""
    yield
    if boxes.states or boxes.members != ("one", "two"):
        boxes.members = ("one", "two")
        boxes.write()


@pytest.mark.long
@pytest.mark.parametrize("port", [7000, 7001], ids=["by source", "by connection"])
def test_balancers_are_lost_in_turns_and_no_connection_is(boxes: Segment, port: int) -> None:
    talk = talking(boxes, 0, 100, port=port)
    spread = [established(boxes, name, port=port) for name in boxes.members]
    assert min(spread) > 50, spread
    boxes.router.ip("link set to-red down")
    boxes.announced("green", "blue")
    boxes.router.ip("link set to-red up")
    boxes.announced("red", "green", "blue")
    boxes.boxes["green"].run("sh", "-c", "kill -KILL $(cat /run/bird.pid)")
    boxes.announced("red", "blue")
    boxes.announce("green")
    boxes.announced("red", "green", "blue")
    ended(talk)
    for name in boxes.balancers:
        assert min(boxes.counted(name, f"to-{owner}") for owner in boxes.members) > 0, name


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("port", [7000, 7001], ids=["by source", "by connection"])
def test_an_icmp_error_reaches_the_box_that_has_the_connection(boxes: Segment, family: int, port: int) -> None:
    """The path's MTU is less than the boxes know, and the router's word for it comes by any of the balancers."""
    boxes.router.ip("link set out mtu 1300")
    try:
        some = sources(200 + port % 2 * 20, 12)[family]
        boxes.clients.run("/usr/bin/python3", "-c", LONG, SERVICE[family], str(port), *some, timeout=120)
    finally:
        boxes.router.ip("link set out mtu 1500")
    routes = [boxes.boxes[name].run("ip", f"-{family}", "route", "get", some[0]).stdout for name in boxes.owners]
    assert any("mtu 1300" in route for route in routes), routes


@pytest.mark.parametrize("family", [4, 6])
def test_what_no_service_listens_on_is_answered_by_a_box_that_has_the_address(boxes: Segment, family: int) -> None:
    some = sources(240, 6)[family]
    done = boxes.clients.run("/usr/bin/python3", "-c", NOBODY, SERVICE[family], *some)
    assert done.stdout.split() == ["refused"] * len(some)


@pytest.mark.long
def test_a_box_drains_goes_and_returns_and_no_connection_is_lost(boxes: Segment) -> None:
    """Box after box has each state, while clients talk and connect: some boxes have it and others do not."""
    before = talking(boxes, 300, 60)
    had = clients_at(boxes, "one", 300, 60)
    boxes.write(draining=["one"])
    while_away = talking(boxes, 400, 60)
    assert clients_at(boxes, "one", 300, 60) == had != set(), "those it has go on"
    assert clients_at(boxes, "one", 400, 60) == set(), "new ones go to the other box"
    ended(before)
    wait_for("it is empty", lambda: established(boxes, "one") == 0)
    boxes.write(out=["one"])
    boxes.write(draining=["one"])
    boxes.write(returning=["one"])
    after = talking(boxes, 500, 60)
    assert established(boxes, "one") > 0, "new ones go to it again"
    assert "portfleet-forward" not in boxes.portfleet("one", "doctor", check=False).stdout, "these rules are ours"
    ended(while_away, after)
    for family in ("ip", "ip6"):
        passing = boxes.boxes["one"].run("nft", "list", "chain", family, "portfleet-forward", "to-two").stdout
        assert "counter packets 0 " not in passing, "it has passed on what began on the other box"
    boxes.write()
    assert "ip portfleet-forward" not in boxes.boxes["one"].run("nft", "list", "tables").stdout


@pytest.mark.long
def test_a_client_that_comes_again_from_the_same_port_is_served_while_its_box_drains(boxes: Segment) -> None:
    """The box knows the old connection for two minutes yet, and is not to take the new one's packets for its.

    Sequence numbers do not tell it so where they are not checked, as templates/system/sysctl.conf has it.
    """
    some = [[source, 40000] for each in sources(900, 40).values() for source in each]

    def ask() -> list[str]:
        failed = []
        for family, asking in ((4, some[:40]), (6, some[40:])):
            job = {"to": [SERVICE[family], 7000], "sources": asking, "message": "hello\n"}
            done = boxes.clients.run("/usr/bin/python3", str(CLIENTS), "ask", text=json.dumps(job) + "\n")
            failed += [f"{one['source']}: {one['error']}" for one in json.loads(done.stdout) if one["error"]]
            boxes.clients.run("ss", "-K", "state", "time-wait")  # as if a minute had gone by, but not two
        return failed

    boxes.boxes["one"].sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")
    assert ask() == []
    known = boxes.boxes["one"].run("conntrack", "-L", "-p", "tcp", "--state", "TIME_WAIT").stdout
    assert known.count("sport=40000 dport=7000") > 5
    boxes.write(draining=["one"])
    assert ask() == []
    boxes.boxes["one"].sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")
    boxes.write()


@pytest.mark.long
def test_a_box_is_added_and_taken_away_and_no_connection_is_lost(boxes: Segment) -> None:
    before = talking(boxes, 700, 60)
    boxes.members = ("one", "two", "late")
    for states in ({"out": ["late"]}, {"draining": ["late"]}, {"returning": ["late"]}):
        boxes.write(**states)
    meanwhile = talking(boxes, 800, 60)
    has = established(boxes, "late")
    assert has > 0
    ended(before)
    boxes.write()
    boxes.write(draining=["late"])
    assert established(boxes, "late") > 0
    ended(meanwhile)
    wait_for("it is empty", lambda: established(boxes, "late") == 0)
    boxes.write(out=["late"])
    boxes.members = ("one", "two")
    boxes.write()


@pytest.mark.long
def test_what_is_kept_is_put_back_and_follows_the_config(boxes: Segment) -> None:
    box = boxes.boxes["red"]
    keeper = box.popen("sh", "-c", f"echo $$; exec {PORTFLEET} --home {HOME} forward keep")
    assert keeper.stdout is not None and keeper.stderr is not None
    pid = keeper.stdout.readline().strip()

    def there(words: str) -> bool:
        listed = box.run("nft", "list", "table", "netdev", "portfleet-forward", check=False).stdout
        return words in listed

    try:
        said = keeper.stderr
        assert said.readline() == "portfleet: rules loaded\n"
        box.run("nft", "delete", "table", "netdev", "portfleet-forward")
        wait_for("they are back", lambda: there("goto to-two"))
        box.run("nft", "delete", "element", "netdev", "portfleet-forward", "ways", "{", "7", "}")
        wait_for("the slot is back", lambda: there(" 7 : goto"))
        mac = json.loads(boxes.boxes["two"].run("ip", "-j", "link", "show", "eth0").stdout)[0]["address"]
        assert there(mac)
        boxes.boxes["two"].ip("link set eth0 address 02:00:00:00:00:77")
        wait_for("another card of a box is known", lambda: there("02:00:00:00:00:77"), seconds=120)
        boxes._config(box, {"out": ["two"]})
        assert boxes.portfleet("red", "forward", "check", check=False).returncode == 6
        assert "not loaded" in boxes.portfleet("red", "forward").stdout
        box.run("kill", "-HUP", pid)
        wait_for("all slots are the other's", lambda: not there("goto to-two"))
        assert boxes.portfleet("red", "forward", "check").stdout == ""
        box.run("sh", "-c", f"echo nonsense >> {HOME}/fleet.toml")
        box.run("kill", "-HUP", pid)
        wait_for("it says so", lambda: "going on by what was loaded last" in said.readline())
        assert there("goto to-one")
    finally:
        box.run("kill", pid)
        keeper.communicate(timeout=20)
    boxes._config(box, {})
    assert there("goto to-one"), "the rules stay"
    boxes.portfleet("red", "forward", "remove")
    done = boxes.portfleet("red", "forward", "check", check=False)
    assert (done.returncode, done.stdout) == (6, "nothing is loaded\n")
    assert "portfleet-forward" not in box.run("nft", "list", "tables").stdout
    boxes.portfleet("red", "forward", "load")


def test_explain_says_to_which_box_a_client_goes(boxes: Segment) -> None:
    some = sources(600, 5)
    talk = talking(boxes, 600, 5, connects=1)
    there = {name: boxes.boxes[name].run("ss", "-tnH", "state", "established").stdout for name in boxes.members}
    ended(talk)
    for source in some[4] + some[6]:
        said = json.loads(boxes.portfleet("one", "explain", "echo", source, "--json").stdout)
        (has,) = (name for name, shown in there.items() if re.search(rf"[\[ :]{source}\]?:", shown))
        assert said["box"] == has and said["elsewhere"] == (has == "two"), (source, said)
        if source in (some[4][0], some[6][0]):
            words = boxes.portfleet("one", "explain", "echo", source).stdout
            assert ("but not here: new ones of it go to two" in words) == (has == "two")


def test_what_cannot_be_is_refused(boxes: Segment) -> None:
    shown = boxes.portfleet("one", "forward").stdout
    assert "this box" in shown and "4,096 slots" in shown
    assert "a balancer alone" in boxes.portfleet("red", "forward").stdout
    box = boxes.boxes["blue"]
    box.ip("route add 192.0.2.12/32 via 192.0.2.254")
    done = boxes.portfleet("blue", "forward", "load", check=False)
    box.ip("route del 192.0.2.12/32 via 192.0.2.254")
    assert done.returncode == 1 and f"two ({addresses(2)[4]}) is not on a segment of this box" in done.stderr
