"""Plans and nft text, word for word.

After a wanted change: GOLDEN=write pytest tests/unit/test_golden.py, and read the diff.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import pytest

from portfleet.core.changes import PlaneState
from portfleet.core.model import parse_instance
from portfleet.core.plan import transactions
from portfleet.dataplane.nft.base import SetBase
from portfleet.dataplane.nft.book import Book, by_family
from portfleet.dataplane.nft.forwarding import Way
from portfleet.dataplane.nft.forwarding import rendered as sent_on
from portfleet.dataplane.nft.text import rendered, text
from support.fake_world import World
from support.fleets import ECHO, fleet
from support.golden import compare

SMALL = ECHO.replace("instances = 4", "instances = 2\nslots = 256")
KV = """
[service.kv]
listen = ["192.0.2.1:6000", "[2001:db8::1]:6000"]
command = ["redis-server", "--port", "{port}"]
ports = "6100-6103"
instances = 2
slots = 256
affinity = "source/24/56"
weight = { 1 = 3 }
"""
#: name -> (what was applied before, what shall be now)
CASES = {
    "first": (None, SMALL),
    "two-services": (None, SMALL + KV),
    "scaled-up": (SMALL, SMALL.replace("instances = 2", "instances = 3")),
    "scaled-down": (SMALL, SMALL.replace("instances = 2", "instances = 1")),
    "another-command": (SMALL, SMALL + "environment = { A = '1' }\n"),
    "another-listen": (SMALL, SMALL.replace(":7000", "0.0.0.0:7001")),
    "a-service-less": (SMALL + KV, SMALL),
}


def book_of(state: PlaneState) -> Book:
    """Return what nftables would have of ``state``."""
    book = Book(slots=dict(state.slots), listens=by_family(state.listens))
    for rule in state.instances.values():
        if rule and (instance := parse_instance(rule.name)):
            book.numbers.setdefault(instance.service, {})[rule.number] = rule.name
    return book


@pytest.mark.parametrize("name", CASES)
def test_plans_and_their_transactions_are_as_they_were_read_and_agreed_to(name: str, tmp_path: Path) -> None:
    before, after = CASES[name]
    world = World(tmp_path)
    if before:
        world.apply(fleet(before))

    desired, plan = world.plan(fleet(after))

    share = [f"{service}: {moved} of {of} slots move" for service, (moved, of) in plan.moved.items()]
    compare(f"{name}.plan", "\n".join([*plan.describe(), *share, *plan.notes]) + "\n")
    state, found = world.kernel.observe(), ""
    book = book_of(state)
    for words, transaction in transactions(plan.steps, desired, state):
        found += f"# {words}\n{text(transaction, book)}"
    # The home is a hash of the directory, another one for every test.
    compare(f"{name}.nft", found.replace(world.paths.identity, "0123456789abcdef"))


def test_an_established_connection_fails_the_first_test_of_the_one_rule_in_each_chain_that_it_passes() -> None:
    rules = rendered(SetBase("0123456789abcdef"))
    passed = re.findall(r"^add chain inet portfleet (\w+) \{ type filter ", rules, re.MULTILINE)
    assert sorted(passed) == ["guard", "midway_in", "midway_out"]
    for chain in passed:
        body = re.search(rf"^  chain {chain} \{{\n(.*?)^  }}", rules, re.MULTILINE | re.DOTALL)
        assert body is not None
        (rule,) = body[1].splitlines()
        assert rule.split()[:3] in (["ct", "state", "new"], ["ct", "state", "new,invalid"]), chain


FORWARD = """
[forward]
addresses = ["203.0.113.100", "2001:db8:5::100"]
slots = 256
draining = ["two"]
boxes.one = ["192.0.2.11", "2001:db8::11"]
boxes.two = ["192.0.2.12", "2001:db8::12"]
boxes.three = ["192.0.2.13", "2001:db8::13"]
"""


@pytest.mark.parametrize("here", ["one", "two", None])
def test_what_is_sent_on_is_as_it_was_read_and_agreed_to(here: str | None) -> None:
    found = fleet(
        SMALL + KV.replace("192.0.2.1:", "203.0.113.100:").replace("2001:db8::1", "2001:db8:5::100") + FORWARD
    )
    ways = {
        name: tuple(Way(ip, ip_address(address), "eth0") for ip, address in zip(("ip", "ip6"), own, strict=True))
        for name, own in found.forward.boxes.items()
        if name != here
    }
    compare(f"forward-{here}.nft", sent_on(found, here, ways, frozenset({"02:00:00:00:02:0b"})))
