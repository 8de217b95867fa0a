"""Which box a client's packets go to: by [forward] alone, with the fewest moves, and by what of a packet."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet.core import forwarding
from portfleet.core.errors import ConfigError
from portfleet.core.model import Affinity
from portfleet.core.policies import Forward
from portfleet.core.slots import count, moves
from support.fleets import fleet


def forward(boxes: int, **states: tuple[str, ...]) -> Forward:
    return Forward(
        ("203.0.113.100",), {f"box{n}": (f"192.0.2.{n}",) for n in range(1, boxes + 1)}, **states, slots=1024
    )


@given(st.integers(1, 20))
def test_a_box_more_takes_its_share_and_nothing_else_moves(boxes: int) -> None:
    before, after = forwarding.ways(forward(boxes)), forwarding.ways(forward(boxes + 1))

    moved = moves(before, after)

    assert {new for _, new in moved.values()} == {f"box{boxes + 1}"}
    assert len(moved) == count(after)[f"box{boxes + 1}"] == 1024 // (boxes + 1)
    held = count(after).values()
    assert max(held) - min(held) <= 1


@given(st.integers(3, 12), st.data())
def test_exactly_the_slots_of_a_box_that_is_out_move(boxes: int, data: st.DataObject) -> None:
    all_in = forward(boxes)
    away = data.draw(st.lists(st.sampled_from(sorted(all_in.boxes)), unique=True, min_size=1, max_size=boxes - 1))

    moved = moves(forwarding.ways(all_in), forwarding.ways(replace(all_in, out=tuple(away))))

    assert {old for old, _ in moved.values()} == {*away}
    assert len(moved) == sum(count(forwarding.ways(all_in))[name] for name in away)
    assert not {new for _, new in moved.values()} & {*away}


def test_a_box_that_drains_gets_the_packets_of_its_slots_and_no_connections() -> None:
    all_in, drains = forward(3), forward(3, draining=("box2",))

    assert forwarding.ways(drains) == forwarding.ways(all_in)
    assert forwarding.starts(drains) == forwarding.starts(forward(3, out=("box2",)))
    assert forwarding.passes(drains, "box2") == forwarding.starts(drains), "it passes on to who gets them"
    assert forwarding.passes(drains, "box1") is forwarding.passes(all_in, "box2") is None


STATES: tuple[dict[str, tuple[str, ...]], ...] = (
    {},
    {"draining": ("box2",)},
    {"out": ("box2",)},
    {"draining": ("box2",)},
    {"returning": ("box2",)},
)


@pytest.mark.parametrize("step", range(1, len(STATES)))
def test_while_a_step_is_taken_on_some_boxes_every_connection_is_found(step: int) -> None:
    """Any box may be the first to take the step, box 2 itself too; a connection's packets may come by any."""
    both = [forward(3, **STATES[step - 1]), forward(3, **STATES[step])]
    ways = [forwarding.ways(one) for one in both]
    passes = [forwarding.passes(one, "box2") for one in both]

    def taken_in(sender: int, box2: int, slot: int, has: str | None) -> str | None:
        """Return the box that takes a packet of a connection that ``has`` has (None: it begins)."""
        first, table = ways[sender][slot], passes[box2]
        keeps = has == "box2" or (has is None and "box2" in both[box2].returning)
        return first if first != "box2" or table is None or keeps else table[slot]

    for sender, box2, slot in product((0, 1), (0, 1), range(1024)):
        has = taken_in(sender, box2, slot, None)
        for by, now in product((0, 1), range(box2, 2)):
            assert taken_in(by, now, slot, has) == has, (slot, sender, box2, by, now)


def test_a_box_that_is_added_and_out_moves_nothing() -> None:
    before, added = forwarding.ways(forward(3)), forwarding.ways(forward(4, out=("box4",)))
    assert added == before
    drains = forward(4, draining=("box4",))
    assert forwarding.starts(drains) == before
    assert forwarding.passes(drains, "box4") == before


def test_a_box_that_returns_passes_on_what_began_while_it_was_out() -> None:
    away, back = forward(3, out=("box2",)), forward(3, returning=("box2",))

    assert forwarding.ways(back) == forwarding.starts(back) == forwarding.ways(forward(3))
    assert forwarding.passes(back, "box2") == forwarding.ways(away)


def test_the_box_is_known_by_its_addresses() -> None:
    known = {"192.0.2.1": False, "192.0.2.2": True}
    assert forwarding.own(forward(2), known) == "box2"
    assert forwarding.own(forward(2), dict.fromkeys(known, False)) is None


CONFIG = """
[service.echo]
listen = ["203.0.113.100:7000", ":7001", "192.0.2.1:7002"]
command = ["portfleet-daemon", "--port", "{port}"]
ports = "7100-7107"
instances = 2
AFFINITY

[forward]
addresses = ["203.0.113.100", "2001:db8:5::100"]
boxes.one = ["192.0.2.1", "2001:db8::1"]
boxes.two = ["192.0.2.2", "2001:db8::2"]
"""


@pytest.mark.parametrize(
    ("written", "counts"),
    [
        ("", Affinity("source")),
        ('affinity = "source/24/56"', Affinity("source", 24, 56)),
        ('affinity = "connection"', Affinity("connection")),
        ('affinity = "round-robin"', Affinity("connection")),
        ('affinity = "random"', Affinity("connection")),
    ],
)
def test_services_are_sent_on_by_what_all_packets_of_a_connection_have(written: str, counts: Affinity) -> None:
    found = forwarding.forwarded(fleet(CONFIG.replace("AFFINITY", written)))

    assert {(one.address, one.port) for one in found} == {
        ("203.0.113.100", 7000),
        ("203.0.113.100", 7001),
        ("2001:db8:5::100", 7001),
    }
    assert {one.affinity for one in found} == {counts}


@pytest.mark.parametrize(
    ("old", "new", "path", "words"),
    [
        ('addresses = ["203.0.113.100", "2001:db8:5::100"]', "", "forward.addresses", "is missing or empty"),
        ('"203.0.113.100", "2001', '"203.0.113.1000", "2001', "forward.addresses[0]", "is not an address"),
        ('"203.0.113.100", "2001', '"127.0.0.1", "2001', "forward.addresses[0]", "no address that clients could dial"),
        (', "2001:db8::1"]', "]", "forward.boxes.one", "has no IPv6 address"),
        ('"192.0.2.1"', '"203.0.113.100"', "forward.boxes.one", "which every box has"),
        ('["192.0.2.2"', '["192.0.2.1"', "forward.boxes.two", "192.0.2.1 is that of one"),
        ("boxes.two", "boxes.'b{'", 'forward.boxes."b{"', "is not a name of a box"),
        ("boxes.one", "out = ['three']\nboxes.one", "forward.out", "there is no box 'three'"),
        ("boxes.one", "out = ['one']\ndraining = ['one']\nboxes.one", "forward.out", "one is in draining too"),
        ("boxes.one", "out = ['one']\ndraining = ['two']\nboxes.one", "forward.boxes", "none of them would get"),
        ("boxes.one", "devices = ['eth0\"']\nboxes.one", "forward.devices[0]", "is not a name of an interface"),
    ],
)
def test_what_cannot_be_is_said_with_its_place(old: str, new: str, path: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fleet(CONFIG.replace("AFFINITY", "").replace(old, new, 1))
    assert any(problem.path == path and words in problem.message for problem in caught.value.problems), caught.value
