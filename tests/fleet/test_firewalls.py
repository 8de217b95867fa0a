"""Others' rules in the way: each is shown by real clients, found by doctor with its text, and gone by its command."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.fleet_box import FleetBox, fleet_box
from support.forms import forms
from support.sandbox import CLIENT4, client4, client6
from support.watched import NAMED

CLIENTS = [client4(1), client6(1)]
_CLIENTS = """
import socket, sys
for source in sys.argv[1:]:
    host = "2001:db8::1" if ":" in source else "192.0.2.1"
    socket.create_connection((host, 7000), 1, (source, 0)).close()
"""
_LOCAL = "import socket; socket.create_connection(('127.0.0.1', 7000), 1).close()"


@dataclass(frozen=True)
class Case:
    """Rules, who is kept out by them ("outside", "local", "both", "none"), and what doctor's finding must say."""

    rules: str
    kept_out: str
    about: str
    says: str
    severity: str = "broken"
    command: str = "nft "
    tool: str = "nft -f -"


def filter_chain(hook: str, priority: str, *rules: str, policy: str = "accept") -> str:
    body = "\n".join((f"type filter hook {hook} priority {priority}; policy {policy};", *rules))
    return f"table inet site {{\nchain {hook} {{\n{body}\n}}\n}}"


_INPUT = ("ct state established,related accept", "iifname lo accept", "meta l4proto ipv6-icmp accept")
STRICT = """
table inet firewalld {
  chain filter_IN_public {
    jump filter_IN_public_allow
    meta l4proto { icmp, ipv6-icmp } accept
  }
  chain filter_IN_public_allow {
    tcp dport 22 accept
    tcp dport 7000 accept
  }
  chain filter_INPUT_POLICIES {
    iifname { "to-clients", "eth0" } jump filter_IN_public
    iifname "to-clients" reject with icmpx admin-prohibited
    jump filter_IN_public
    reject with icmpx admin-prohibited
  }
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_INPUT_POLICIES
    reject with icmpx admin-prohibited
  }
}
"""
UFW = """
table ip filter {
  chain ufw-user-input {
    tcp dport 7000 accept
  }
  chain ufw-before-input {
    iifname "lo" accept
    ct state related,established accept
    jump ufw-user-input
  }
  chain INPUT {
    type filter hook input priority filter; policy drop;
    jump ufw-before-input
  }
}
"""
IPTABLES_UFW = """
*filter
:INPUT DROP [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-logging-deny - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -j ufw-user-input
-A ufw-logging-deny -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp -m tcp --dport 22 -m comment --comment "an admin's way in" -j ACCEPT
-A ufw-user-input -p tcp -m multiport --dports 7000,8000:8010 -j ACCEPT
COMMIT
"""
IPTABLES_REJECT = """
*filter
-A INPUT -i lo -j ACCEPT
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 7000 -j ACCEPT
-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m comment --comment "the rest" -j REJECT
COMMIT
"""
IPTABLES_NOTRACK = """
*raw
-A PREROUTING -p tcp -m multiport --dports 7000 -j CT --notrack
COMMIT
"""
DOCKER = """
table ip nat {
  chain DOCKER {
    iifname != "docker0" tcp dport 7000 counter dnat to 192.0.2.77:80
  }
  chain PREROUTING {
    type nat hook prerouting priority -105; policy accept;
    fib daddr type local counter jump DOCKER
  }
}
"""
CASES = {
    "policy drop": Case(
        filter_chain("input", "0", *_INPUT, "tcp dport 7000 accept", policy="drop"),
        "outside", "chain inet site input", "its policy drops clients from outside by :7000",
    ),
    "ends in reject": Case(
        filter_chain("input", "0", *_INPUT, "tcp dport { 22, 7000 } accept", "meta l4proto tcp reject with tcp reset"),
        "outside", "in inet site input", "`meta l4proto tcp reject with tcp reset` rejects clients from outside",
    ),
    "ends in drop": Case(
        filter_chain("input", "0", *_INPUT, "tcp dport 7000 accept", "counter drop"),
        "outside", "in inet site input", "drop` drops clients from outside",
    ),
    "a map of verdicts": Case(
        filter_chain("input", "0", "ct state vmap { established : accept, related : accept, invalid : drop }",
                     "iifname lo accept", "tcp dport vmap { 22 : accept, 7100-7199 : drop }"),
        "outside", "in inet site input", "drops clients from outside",
    ),
    "firewalld, strict": Case(
        STRICT, "outside", "in inet firewalld filter_INPUT_POLICIES", "rejects clients from outside",
        command="firewall-cmd --permanent --add-port=7100-7107/tcp",
    ),
    "ufw": Case(
        UFW, "outside", "chain ip filter INPUT", "its policy drops clients from outside",
        command="ufw allow 7100:7107/tcp"
    ),
    "ufw, as iptables sets it": Case(
        IPTABLES_UFW, "outside", "chain ip filter INPUT", "its policy drops clients from outside",
        command="ufw allow 7100:7107/tcp", tool="iptables-nft-restore",
    ),
    "iptables, ends in reject": Case(
        IPTABLES_REJECT, "outside", "in ip filter INPUT", '-m comment --comment "the rest" -j REJECT',
        command="iptables -t filter -I INPUT -m conntrack --ctstate DNAT -j ACCEPT", tool="iptables-nft-restore",
    ),
    "iptables-legacy, ends in reject": Case(
        IPTABLES_REJECT, "outside", "rule 4 in ip filter (legacy) INPUT", "rejects clients from outside",
        command="iptables-legacy -t filter -I INPUT -m conntrack --ctstate DNAT -j ACCEPT",
        tool="iptables-legacy-restore",
    ),
    "iptables, notrack": Case(
        IPTABLES_NOTRACK, "outside", "in ip raw PREROUTING", "keeps clients from outside by :7000 from being tracked",
        command="iptables -t raw -D PREROUTING -p tcp -m multiport --dports 7000 -j CT --notrack",
        tool="iptables-nft-restore",
    ),
    "a port that Docker publishes": Case(
        DOCKER, "outside", "in ip nat DOCKER", "dnat to 192.0.2.77:80` leads clients from outside by :7000 elsewhere",
        command="docker ps --filter publish=7000, or: nft delete rule ip nat DOCKER handle",
    ),
    "notrack of the port": Case(
        filter_chain("prerouting", "raw", "tcp dport 7000 notrack"),
        "outside", "in inet site prerouting", "`tcp dport 7000 notrack` keeps clients from outside by :7000 from being",
    ),
    "notrack of lo": Case(
        filter_chain("output", "raw", "oifname lo notrack"),
        "local", "in inet site output", "keeps clients on this box by :7000 from being tracked",
    ),
    "dropped before translation": Case(
        filter_chain("prerouting", "mangle", "iifname != lo tcp dport != 22 tcp flags & (fin|syn|rst|ack) == syn drop"),
        "outside", "in inet site prerouting", "drops clients from outside",
    ),
    "the answer dropped": Case(
        filter_chain("output", "0", "oifname lo accept", "tcp sport { 22, 7000 } accept", "meta l4proto tcp drop"),
        "outside", "in inet site output", "drops the answer to clients from outside",
    ),
    "own clients dropped on their way out": Case(
        filter_chain("output", "-150", "ct state established accept", "oifname lo tcp dport 7000 reject"),
        "local", "in inet site output", "rejects clients on this box",
    ),
    "a ban by the service's port": Case(
        filter_chain("input", "-1", f"tcp dport 7000 ip saddr {{ {CLIENT4}, {client4(1)} }} reject"),
        "none", "in inet site input", "is by port 7000, which no packet of echo has any more there",
        "warning",
        command="portfleet deny echo",
    ),
}  # fmt: skip
HARMLESS = {
    "what was translated is let in": filter_chain(
        "input", "0", *_INPUT, "ct status dnat accept", "tcp dport 22 accept", "reject", policy="drop"
    ),
    "the instances' ports are let in": filter_chain("input", "0", *_INPUT, "tcp dport 7100-7199 accept", policy="drop"),
    "the dialled port is asked of conntrack": filter_chain(
        "input", "0", *_INPUT, "meta l4proto tcp ct original proto-dst 7000 accept", policy="drop"
    ),
    "bans by source": filter_chain("input", "0", "ip saddr { 198.18.66.0/24, 198.18.77.1 } drop", "udp dport 53 drop"),
    "other protocols and ports": filter_chain(
        "input", "0", "meta l4proto udp reject", "tcp dport 23 drop", "ct state invalid drop", "icmp type 8 drop"
    ),
}


@pytest.fixture(scope="module")
def box() -> Iterator[FleetBox]:
    with fleet_box(NAMED) as made:
        yield made


@pytest.fixture(autouse=True)
def no_rules_left(box: FleetBox) -> Iterator[None]:
    yield
    for table in ("inet site", "inet firewalld", "ip filter", "ip nat", "ip raw"):
        box.boxes.host.run("nft", "delete", "table", *table.split(), check=False)
    box.boxes.host.run("iptables-legacy", "-F", check=False)


def kept_out(box: FleetBox) -> str:
    """Return who is not served."""
    clients = box.boxes.clients.run("python3", "-c", _CLIENTS, *CLIENTS, check=False).returncode == 0
    local = box.boxes.host.run("python3", "-c", _LOCAL, check=False).returncode == 0
    return {(True, True): "none", (True, False): "local", (False, True): "outside", (False, False): "both"}[
        (clients, local)
    ]


def found(box: FleetBox) -> list[dict[str, str]]:
    """Return what doctor finds of others' rules."""
    findings = json.loads(box.portfleet("doctor", "--json", check=False).stdout)["findings"]
    return [f for f in findings if f["about"].startswith(("rule ", "chain ", "firewalls"))]


@pytest.mark.parametrize(
    "name", forms(CASES, "policy drop", "ends in reject", "a map of verdicts", "ufw", "dropped before translation")
)
def test_what_keeps_clients_out_is_found_and_its_command_lets_them_in(box: FleetBox, name: str) -> None:
    case = CASES[name]
    box.boxes.host.run(*case.tool.split(), text=case.rules)
    assert kept_out(box) == case.kept_out
    about = [f for f in found(box) if f["severity"] != "fine"]
    assert about, "doctor finds nothing"
    assert case.about in about[0]["about"] and case.says in about[0]["what"], about
    assert (about[0]["severity"], case.command in about[0]["mend"]) == (case.severity, True), about
    assert about[0]["why"]
    if case.severity == "broken" and about[0]["mend"].startswith(("nft", "iptables")):
        for finding in about:
            box.boxes.host.run("sh", "-ec", finding["mend"])
        assert kept_out(box) == "none"
        assert [f["severity"] for f in found(box)] == ["fine"]


@pytest.mark.parametrize("name", HARMLESS)
def test_what_keeps_nobody_out_is_not_spoken_of(box: FleetBox, name: str) -> None:
    box.boxes.host.run("nft", "-f", "-", text=HARMLESS[name])
    assert kept_out(box) == "none"
    assert [f["severity"] for f in found(box)] == ["fine"], found(box)


def test_what_cannot_be_told_is_said_to_be_possible(box: FleetBox) -> None:
    box.boxes.host.run(
        "nft", "-f", "-", text=filter_chain("input", "0", "meta mark 0x7 drop", "limit rate over 1/second drop")
    )
    about = found(box)
    assert [f["severity"] for f in about] == ["warning", "warning"]
    assert all("may drop" in f["what"] for f in about)


@pytest.mark.long
def test_a_huge_ruleset_is_judged_within_seconds(box: FleetBox) -> None:
    rules = [f"tcp dport {1 + n % 6000} ip saddr 198.18.{n % 256}.1 drop" for n in range(30_000)]
    for first in range(0, len(rules), 400):  # more is too long a message for root of a user namespace
        box.boxes.host.run("nft", "-f", "-", text=filter_chain("input", "0", *rules[first : first + 400]))
    began = time.monotonic()
    about = found(box)
    print(f"30,000 rules: {time.monotonic() - began:.1f} s")
    assert any("were not looked at" in f["what"] for f in about), about
