"""Pinned sources get their instance, the longest prefix first, and go by their slots while it is out."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfleet.core.pins import find, flatten, parse
from support.fleet_box import FleetBox, fleet_box
from support.plane import ECHO, Plane
from support.sandbox import BoxError, client4, client6
from support.watched import NAMED

OFFICE = [f"198.18.7.{last}" for last in range(1, 60)] + [f"2001:db8:1:7::{last:x}" for last in range(1, 60)]
OTHERS = [client4(40_000 + number * 7) for number in range(60)] + [client6(9000 + number) for number in range(60)]
PINS = {
    "198.18.7.0/24": "2",
    "198.18.7.9/32": "3",
    "198.18.7.16/28": "4",
    "2001:db8:1:7::/64": "2",
    "2001:db8:1:7::9/128": "3",
}


def owner(address: str) -> str:
    """Return whom PINS name for an address of the office."""
    member = find(PINS, ipaddress.ip_address(address))
    return f"echo-blue-{member}"


@pytest.mark.parametrize("extra", ["", 'sticky = "1h"\n', 'affinity = "random"\n'])
def test_the_longest_prefix_decides_in_both_families(rules: Plane, extra: str) -> None:
    rules.load(ECHO + extra)
    rules.serve()
    before = rules.met(OTHERS)
    rules.load(ECHO + extra, rules.record(pins=PINS))
    assert rules.is_as_wanted()
    assert rules.met(OFFICE) == {address: owner(address) for address in OFFICE}
    after = rules.met(OTHERS)
    assert None not in after.values()
    assert after == before or "random" in extra

    rules.load(ECHO + extra, rules.record(pins={}))
    assert rules.is_as_wanted()
    assert "pins" not in rules.boxes.host.run("nft", "list", "ruleset").stdout


def test_while_its_instance_is_out_a_pinned_source_goes_by_its_slot(rules: Plane) -> None:
    rules.load(ECHO)
    rules.load(ECHO, rules.record(pins=PINS))
    rules.serve()
    pinned = [address for address in OFFICE if owner(address) == "echo-blue-2"]
    rules.signal("echo-blue-2", "KILL")
    rules.point(["echo-blue-2"])
    met = rules.met(pinned, timeout=2)
    assert set(met.values()) == {"echo-blue-1", "echo-blue-3", "echo-blue-4"}
    rules.serve(names=["echo-blue-2"])
    rules.point()
    assert set(rules.met(pinned).values()) == {"echo-blue-2"}


networks = st.one_of(
    st.builds(lambda base, bits: str(ipaddress.ip_network((base << 24 & 0xFFFFFFFF, bits), strict=False)),
              st.integers(10, 13), st.integers(1, 32)),
    st.builds(lambda base, bits: str(ipaddress.ip_network((base << 120, bits), strict=False)),
              st.integers(32, 35), st.integers(1, 128)),
)  # fmt: skip


@pytest.mark.long
@given(st.dictionaries(networks, st.sampled_from("1234"), max_size=8), st.data())
@settings(max_examples=60)
def test_flat_pins_do_not_overlap_and_decide_the_same(pins: dict[str, str], data: st.DataObject) -> None:
    flat = flatten(pins)
    parsed = [parse(text) for text in flat]
    for index, one in enumerate(parsed):
        for other in parsed[:index]:
            assert one.version != other.version or not one.overlaps(other)
    for text in [*pins, *flat]:
        network = parse(text)
        offset = data.draw(st.integers(0, network.num_addresses - 1))
        address = network.network_address + offset
        assert find(flat, address) == find(pins, address)


def said(box: FleetBox, *words: str) -> str:
    return box.portfleet(*words).stdout


@pytest.mark.long
def test_pin_explain_status_and_unpin() -> None:
    with fleet_box(NAMED) as box:
        home = box.explain("echo", [client4(7), client4(8)])[client4(7)]
        target = next(f"echo-blue-{number}" for number in range(1, 5) if f"echo-blue-{number}" != home)
        words = said(box, "pin", "echo", client4(7), target)
        assert words.startswith(f"echo: new connections of {client4(7)}/32 go to {target}.")
        assert words.endswith(f"Undo with: portfleet unpin echo {client4(7)}/32\n")
        assert "would pin" in said(box, "pin", "echo", client4(9), target, "--dry-run")
        assert f"pin {client4(7)}/32 to {target}" in said(box, "history")
        assert "already pinned" in said(box, "pin", "echo", client4(7), target[-1])
        assert f"pinned to {target}" in said(box, "explain", "echo", client4(7))
        assert box.who([client4(7)])[client4(7)] == target
        assert f"{client4(7)}/32 → {target}" in said(box, "status")
        assert box.portfleet("plan", "--check").returncode == 0
        for wrong, complaint in (
            (("echo", "198.18.0.7/24", "2"), "not an address or a network"),
            (("echo", client4(7), "9"), "has no instance"),
            (("echo", client4(7), "echo-green-1"), "idle colour"),
        ):
            with pytest.raises(BoxError, match="exit 2"):
                box.portfleet("pin", *wrong)
            assert complaint in box.portfleet("pin", *wrong, check=False).stderr
        assert "goes by its slot again" in said(box, "unpin", "echo", client4(7))
        assert "is not pinned" in said(box, "unpin", "echo", client4(7))
        assert box.who([client4(7)])[client4(7)] == home == box.explain("echo", [client4(7), client4(8)])[client4(7)]
