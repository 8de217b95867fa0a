"""Who may connect: what is denied, allowed and too much of one source, by real packets, in both families."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfleet.core.access import Access, Range, access
from portfleet.core.journal import Journal
from portfleet.core.pins import parse
from portfleet.core.records import Denied
from support.plane import ECHO, Plane, load
from support.sandbox import HOST6, client4, client6, wait_for

OTHERS = ["198.18.9.1", "2001:db8:1:9::1"]


def denying(rules: Plane, **until: int | None) -> Journal:
    """Return the journal with denials, each network with its end."""
    return rules.record(denied={net: Denied("", "", until=end) for net, end in until.items()})


def refused(rules: Plane, sources: list[str], **job: Any) -> set[str]:
    """Return who is refused at once, not after a time-out; the others must be answered."""
    reports = rules.ask(sources, timeout=2, **job)
    assert all(r["reply"] or "ConnectionRefused" in r["error"] for r in reports), reports
    return {r["source"] for r in reports if not r["reply"]}


@pytest.mark.long
def test_denied_sources_are_refused_and_nobody_else(rules: Plane) -> None:
    rules.load(ECHO)
    rules.serve()
    held = ["198.18.7.1", "198.18.7.2"]
    with load(rules, held, interval=0.05) as clients:
        denied = {"198.18.7.0/24": None, "198.18.8.1/32": None, "2001:db8:1:7::/64": None}
        rules.load(ECHO, denying(rules, **denied))
        assert rules.is_as_wanted()
        out = ["198.18.7.1", "198.18.7.255", "198.18.8.1", "2001:db8:1:7::1"]
        assert refused(rules, [*out, *OTHERS, "198.18.8.2", "198.18.6.255"]) == set(out)
        assert rules.kernel.connections.refused("echo") == len(out)
    assert clients.lost == [], "established connections go on"

    rules.load(ECHO, denying(rules))
    assert rules.is_as_wanted()
    assert refused(rules, [*out, *OTHERS]) == set()
    assert "deny" not in rules.boxes.host.run("nft", "list", "ruleset").stdout


@pytest.mark.long
def test_clients_of_this_box_are_refused_too(rules: Plane) -> None:
    rules.load(ECHO)
    rules.load(ECHO, denying(rules, **{"127.0.0.5/32": None, "::1/128": None}))
    rules.serve()
    ask = "import socket, sys; socket.create_connection((sys.argv[1], 7000), 2, (sys.argv[2], 0))"
    for to, source, code in (("127.0.0.1", "127.0.0.1", 0), ("127.0.0.1", "127.0.0.5", 1), ("::1", "::1", 1)):
        done = rules.boxes.host.run("python3", "-c", ask, to, source, check=False)
        assert (done.returncode, "ConnectionRefused" in done.stderr) == (code, bool(code))


@pytest.mark.timed
def test_a_denial_ends_by_itself_and_the_longest_of_several_decides(rules: Plane) -> None:
    rules.load(ECHO)
    rules.serve()
    soon = int(time.time()) + 6
    rules.load(ECHO, denying(rules, **{"198.18.7.0/24": soon, "198.18.7.9/32": None, "2001:db8:1:7::/64": soon}))
    assert rules.is_as_wanted()
    assert refused(rules, ["198.18.7.1", "198.18.7.9", "2001:db8:1:7::1", *OTHERS]) == {
        "198.18.7.1",
        "198.18.7.9",
        "2001:db8:1:7::1",
    }
    wait_for("the first has ended", lambda: "198.18.7.1" not in refused(rules, ["198.18.7.1"]))
    wait_for("its time has come", lambda: time.time() > soon)
    assert refused(rules, ["198.18.7.9", "2001:db8:1:7::1", *OTHERS]) == {"198.18.7.9"}
    assert rules.is_as_wanted(), "what has ended is not missed"


@pytest.mark.long
def test_only_those_allowed_and_not_denied_may_connect(rules: Plane) -> None:
    text = ECHO + 'allow = ["198.18.7.0/24", "2001:db8:1:7::/64"]\ndeny = ["198.18.7.9"]\n'
    rules.load(text)
    rules.serve()
    assert rules.is_as_wanted()
    sources = ["198.18.7.1", "198.18.7.9", "2001:db8:1:7::1", *OTHERS]
    assert refused(rules, sources) == {"198.18.7.9", *OTHERS}
    rules.load(ECHO + 'allow = ["198.18.9.0/24"]\n')
    assert refused(rules, sources) == {"198.18.7.1", "198.18.7.9", "2001:db8:1:7::1", OTHERS[1]}
    rules.load(ECHO)
    assert refused(rules, sources) == set()


@pytest.mark.parametrize(
    "edit",
    [
        "flush set inet portfleet deny4-echo",
        "add element inet portfleet deny4-echo { 198.18.99.0/24 }",
        "add element inet portfleet deny4-echo { 198.18.99.0/24 timeout 1h }",
        "flush chain inet portfleet access_echo",
        "flush ruleset",
    ],
)
def test_an_edit_is_seen_and_mended(rules: Plane, edit: str) -> None:
    end = int(time.time()) + 3600
    rules.load(ECHO)
    rules.load(ECHO, denying(rules, **{"198.18.7.0/24": end, "198.18.8.0/24": None}))
    rules.serve()
    rules.boxes.host.run("nft", edit)
    assert not rules.is_as_wanted()
    rules.load(ECHO, rules.journal)
    assert rules.is_as_wanted()
    assert refused(rules, ["198.18.7.1", "198.18.8.1", "198.18.99.1", *OTHERS]) == {"198.18.7.1", "198.18.8.1"}


@pytest.mark.long
def test_many_denials_load_and_are_read_back(rules: Plane) -> None:
    end = int(time.time()) + 3600
    rules.load(ECHO)
    many = {f"198.18.{n >> 7}.{2 * (n & 127)}/32": (end + n if n % 2 else None) for n in range(5000)}
    began = time.monotonic()
    rules.load(ECHO, denying(rules, **many))
    loaded = time.monotonic()
    assert rules.is_as_wanted()
    print(f"5,000 denials: loaded in {loaded - began:.2f} s, compared in {time.monotonic() - loaded:.2f} s")


IDLE = 80


@pytest.mark.parametrize(("source", "others"), [(client4, "198.18.200."), (client6, "2001:db8:1:c8::")])
def test_one_source_does_not_starve_the_others(rules: Plane, source: Any, others: str) -> None:
    """One address with 80 idle connections: of an instance that takes 40, nothing would be left for the others."""
    text = ECHO.replace("instances = 4", "instances = 1").replace("portfleet-daemon", "redis-server")
    rules.load(text + 'max_connections = 40\noverflow = "refuse"\nmax_per_source = 20\n')
    rules.serve()
    host = {"host": HOST6} if ":" in others else {}
    with _idle(rules, source(3), host.get("host")) as held:
        assert held == 20
        sources = [f"{others}{n}" for n in range(1, 16)] if "." in others else [client6(200 + n) for n in range(15)]
        reports = rules.ask(sources, timeout=2)
        assert Counter(bool(r["reply"]) for r in reports) == {True: 15}


@pytest.mark.long
def test_a_source_is_what_the_affinity_takes_for_one(rules: Plane) -> None:
    rules.load(ECHO + 'affinity = "source/24/56"\nmax_per_source = 3\n')
    rules.serve()
    with load(rules, ["198.18.7.1", "198.18.7.2", "198.18.7.3"], interval=0.5):
        assert refused(rules, ["198.18.7.4", "198.18.8.4"]) == {"198.18.7.4"}
    rules.load(ECHO + "max_per_source = 1\n")
    with load(rules, ["198.18.7.1", "198.18.7.2"], interval=0.5):
        assert refused(rules, ["198.18.7.1", "198.18.7.3"]) == {"198.18.7.1"}
    rules.load(ECHO)
    assert "sources-" not in rules.boxes.host.run("nft", "list", "ruleset").stdout


class _idle:
    """Connections of one source that say nothing; enters with how many of 80 were made."""

    script = """
import socket, sys
held, family = [], socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
for _ in range(int(sys.argv[3])):
    one = socket.socket(family)
    one.settimeout(2)
    one.bind((sys.argv[2], 0))
    try:
        one.connect((sys.argv[1], 7000))
        held.append(one)
    except ConnectionRefusedError:
        pass
print(len(held), flush=True)
sys.stdin.read()
"""

    def __init__(self, rules: Plane, source: str, host: str | None) -> None:
        self.process = rules.boxes.clients.popen("python3", "-c", self.script, host or "192.0.2.1", source, str(IDLE))

    def __enter__(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def _net(base: int, bits: int) -> str:
    return str(ipaddress.ip_network((10 << 24 | base, bits), strict=False))


@pytest.mark.long
@given(
    st.dictionaries(
        st.builds(_net, st.integers(0, 1023), st.integers(22, 32)), st.one_of(st.none(), st.integers(1, 9)), max_size=12
    ),
    st.integers(0, 1023),
)
@settings(max_examples=80, deadline=None)
def test_ranges_do_not_overlap_and_say_the_same_as_the_networks(deny: dict[str, int | None], offset: int) -> None:
    address = ipaddress.ip_address(10 << 24 | offset)
    ends = [9999 if until is None else until for net, until in deny.items()
            if address in parse(net) and (until is None or until > 3)]  # fmt: skip
    ranges = access((), deny, now=3).deny
    holding = [one for one in ranges if ipaddress.ip_address(one.first) <= address <= ipaddress.ip_address(one.last)]  # type: ignore[operator] # all are IPv4
    assert len(holding) == bool(ends)
    assert not ends or (9999 if holding[0].until is None else holding[0].until) == max(ends)
    assert list(ranges) == sorted(ranges, key=lambda one: ipaddress.IPv4Address(one.first))


def test_ranges_of_both_families_and_the_whole_of_one() -> None:
    found = access(["::/0"], {"198.18.7.0/25": None, "198.18.7.128/25": None, "2001:db8::/128": 7}, now=1)
    assert found == Access(
        allow=(Range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),),
        deny=(Range("198.18.7.0", "198.18.7.255"), Range("2001:db8::", "2001:db8::", 7)),
    )
