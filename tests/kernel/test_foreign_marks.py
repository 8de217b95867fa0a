"""Connection marks are others': ours set none, change none and go by none, whatever others' rules do with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.held import dialled, talk
from support.plane import ECHO, Plane, plane
from support.sandbox import HOST4, client4, client6
from support.uplinks import BEHIND_A, BEHIND_B, KINDS, steer

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


@pytest.mark.parametrize("kind", KINDS)
def test_uplinks_that_are_steered_by_marks_lose_no_client(tmp_path: Path, kind: str) -> None:
    with plane(tmp_path / "rules.json", other=True) as rules:
        rules.load(ECHO + 'sticky = "1h"\n')
        rules.serve()
        assert rules.boxes.other is not None
        steer(rules.boxes, KINDS[kind])
        with (
            dialled(rules.boxes.clients, (HOST4, 7000), BEHIND_A) as a,
            dialled(rules.boxes.other, ("203.0.113.1", 7000), BEHIND_B) as b,
        ):
            answers = talk(a + b)
        assert not answers.wrong and len(set(answers.who)) > 1, answers
        shown = rules.boxes.host.run("conntrack", "-L", "-p", "tcp", "--orig-port-dst", "7000").stdout
        assert len({line.partition("mark=")[2].split()[0] for line in shown.splitlines()}) == 2, shown
