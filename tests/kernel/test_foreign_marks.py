"""Somebody else's rules mark connections too, before ours: such a mark is none of ours and leads to no instance."""

from __future__ import annotations

import pytest

from support.plane import ECHO, Plane
from support.sandbox import client4, client6

CLIENTS = [client4(number * 409) for number in range(40)] + [client6(number * 204) for number in range(40)]
FOREIGN = """
table inet theirs {{
  chain prerouting {{
    type filter hook prerouting priority -150; policy accept
    ct state new ct mark set {mark}
  }}
}}
"""


def mark_everything(rules: Plane, name: str) -> None:
    """Have all new connections carry the mark of an instance."""
    mark = next(want.rule.number for want in rules.want.instances if want.name == name)
    rules.boxes.host.run("nft", "-f", "-", text=FOREIGN.format(mark=mark))


@pytest.mark.parametrize("extra", ["", 'sticky = "1h"\n'])
@pytest.mark.parametrize("pins", [{}, {"198.18.7.0/24": "1"}])
def test_clients_go_where_they_would_without_it(rules: Plane, extra: str, pins: dict[str, str]) -> None:
    rules.load(ECHO + extra)
    rules.load(ECHO + extra, rules.record(pins=pins))
    rules.serve()
    before = rules.met(CLIENTS[:20] + CLIENTS[40:60])
    mark_everything(rules, "echo-blue-2")
    met = rules.met(CLIENTS)
    assert before.items() <= met.items()
    assert set(met.values()) == {f"echo-blue-{number}" for number in (1, 2, 3, 4)}


def test_a_slot_that_points_nowhere_still_does(rules: Plane) -> None:
    rules.load(ECHO)
    rules.serve()
    mark_everything(rules, "echo-blue-2")
    rules.boxes.host.run("nft", "flush", "map", "inet", "portfleet", "slots-echo")
    assert set(rules.met(CLIENTS[:4], timeout=1).values()) == {None}
