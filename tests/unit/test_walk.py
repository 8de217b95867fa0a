"""Others' rules evaluated: forms of nft's JSON that no test of real packets makes, iptables' among them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from portfleet.core.model import Listen
from portfleet.core.needs import needs_of
from portfleet.dataplane.nft.doctor import firewalls, ruleset
from portfleet.dataplane.nft.doctor.packets import Packet, Truth, matches
from portfleet.doctor.finding import Finding
from support.fleets import ECHO, fleet

NET = {"prefix": {"addr": "192.0.2.0", "len": 24}}
DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}


def listing(hook: str, kind: str, *bodies: list[Any], family: str = "ip", policy: str = "accept") -> str:
    """Return what `nft -j list ruleset` prints of one base chain, and of a chain DOCKER with the last body."""
    base = {"family": family, "table": "t", "name": "base", "type": kind, "hook": hook, "prio": -100, "policy": policy}
    chains = [{"chain": base}, {"chain": {"family": family, "table": "t", "name": "DOCKER"}}]
    rules = [
        {"rule": {"family": family, "table": "t", "chain": "base", "handle": number, "expr": body}}
        for number, body in enumerate(bodies[:-1], 1)
    ]
    last = {"rule": {"family": family, "table": "t", "chain": "DOCKER", "handle": 9, "expr": bodies[-1]}}
    return json.dumps({"nftables": [{"metainfo": {"version": "1.1.3"}}, *chains, *rules, last]})


def judged(text: str) -> list[Finding]:
    facts = firewalls.FirewallFacts(rules=ruleset.parse(text))
    config = fleet()
    return list(firewalls.judge(facts, config, needs_of(config, descriptors=1000, keepalive=None)))


@pytest.mark.parametrize("match", [{"type": "match", "name": "addrtype"}, None])
def test_what_iptables_wrote_leads_clients_away_as_far_as_can_be_told(match: Any) -> None:
    """`-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER`, `-A DOCKER -p tcp --dport 7000 -j DNAT …`."""
    jump = [{"xt": match}, {"counter": {"packets": 0, "bytes": 0}}, {"jump": {"target": "DOCKER"}}]
    dnat = [{"match": {"op": "==", "left": DPORT, "right": 7000}}, {"xt": {"type": "target", "name": "DNAT"}}]
    (found,) = judged(listing("prerouting", "nat", jump, dnat))
    assert (found.about, found.severity) == ("rule 9 in ip t DOCKER", "warning")
    assert "may lead" in found.what and found.mend.startswith("docker ps --filter publish=7000")
    other = [{"match": {"op": "==", "left": DPORT, "right": 8080}}, dnat[1]]
    assert [f.severity for f in judged(listing("prerouting", "nat", jump, other))] == ["fine"]


def test_chains_that_lead_into_each_other_end() -> None:
    jump = [{"jump": {"target": "DOCKER"}}]
    assert [f.severity for f in judged(listing("input", "filter", jump, jump))] == ["fine"]


def test_a_listing_that_cannot_be_read_is_not_taken_for_none() -> None:
    (found,) = judged("")
    assert found.severity == "warning" and "not known" in found.what


@pytest.mark.parametrize(
    ("left", "op", "right", "truth"),
    [
        (DPORT, "==", {"range": [7000, 7010]}, Truth.YES),
        (DPORT, "!=", {"set": [22, {"range": [80, 90]}]}, Truth.YES),
        (DPORT, "==", {"set": [{"elem": {"val": 7000, "counter": {"packets": 1, "bytes": 1}}}]}, Truth.YES),
        (DPORT, "==", "@unknown", Truth.MAYBE),
        (DPORT, ">", 1024, Truth.MAYBE),
        ({"ct": {"key": "state"}}, "in", ["established", "related"], Truth.NO),
        ({"ct": {"key": "state"}}, "in", {"|": ["new", "invalid"]}, Truth.MAYBE),
        ({"ct": {"key": "state"}}, "!=", "new", Truth.NO),
        ({"payload": {"protocol": "udp", "field": "dport"}}, "!=", 53, Truth.NO),
        ({"payload": {"protocol": "ip6", "field": "saddr"}}, "!=", "::1", Truth.NO),
        ({"payload": {"protocol": "ip", "field": "saddr"}}, "==", "@banned", Truth.SOME),
        ({"payload": {"protocol": "ip", "field": "daddr"}}, "==", NET, Truth.YES),
        ({"payload": {"protocol": "ip", "field": "daddr"}}, "==", {"range": ["192.0.2.5", "192.0.2.9"]}, Truth.NO),
        ({"meta": {"key": "l4proto"}}, "==", {"set": [6, 17]}, Truth.YES),
        ({"meta": {"key": "iifname"}}, "==", "eth*", Truth.YES),
        ({"meta": {"key": "iif"}}, "!=", "lo", Truth.YES),
        ({"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, DPORT]}, "==", "@pairs", Truth.SOME),
        ({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, {"|": ["fin", "syn"]}]}, "==", "syn", Truth.YES),
    ],
)  # fmt: skip
def test_matches(left: Any, op: str, right: Any, truth: Truth) -> None:
    facts = {
        "tcp.dport": 7000,
        "ct.state": frozenset({"new"}),
        "ip.daddr": "192.0.2.1",
        "meta.l4proto": "tcp",
        "meta.iifname": "eth0",
        "tcp.flags": frozenset({"syn"}),
    }
    assert matches({"left": left, "op": op, "right": right}, Packet(4, facts), lambda _: None) is truth


def test_a_remote_instance_is_reached_through_the_forward_hook() -> None:
    config = fleet(ECHO.replace('":7000"', '"0.0.0.0:7000"') + 'remote = ["203.0.113.2:7101"]\n')
    needs = needs_of(config, descriptors=1000, keepalive=None)
    assert needs.listens == {Listen(7000, None, (4,)): "echo"}
    rules = ruleset.parse(listing("forward", "filter", [{"counter": None}], [], policy="drop"))
    (found,) = firewalls.judge(firewalls.FirewallFacts(rules=rules), config, needs)
    assert (found.about, found.severity) == ("chain ip t base", "broken")
    assert found.mend.startswith("nft insert rule ip t base ct status dnat accept")
    let = [{"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}, {"accept": None}]
    rules = ruleset.parse(listing("forward", "filter", let, [], policy="drop"))
    assert [f.severity for f in firewalls.judge(firewalls.FirewallFacts(rules=rules), config, needs)] == ["fine"]
