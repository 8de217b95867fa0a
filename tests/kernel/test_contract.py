"""What a data plane promises, kept by nftables in a box and by the fake that other tests stand on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from portfleet.core import changes as c
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Affinity, Listen
from portfleet.dataplane.nft.plane import NftPlane
from support.fake_kernel import FakeKernel
from support.netns import network_of
from support.sandbox import Box, make_box

HOME = "0123456789abcdef"
ECHO = c.ServiceRule("echo", Affinity("source"), 0x5EED, 256)
KV = c.ServiceRule("kv", Affinity("source", 24, 56), 0x7FFFFFFF, 256)
ONE, TWO = c.InstanceRule("echo-blue-1", 1, 7101), c.InstanceRule("echo-blue-2", 2, 7102)
GREEN = c.InstanceRule("echo-green-1", 0xFFFFFF, 65535)
BOTH, FOUR, SIX = Listen(7000, None, (4, 6)), Listen(7001, None, (4,)), Listen(7002, None, (6,))
ON4, ON6 = Listen(7003, "192.0.2.1", (4,)), Listen(7003, "2001:db8::1", (6,))
PORTS = frozenset({(7100, 7199), (443, 443), (8000, 8001)})
HALF_AND_HALF = c.PointSlots("echo", {slot: (None, ("echo-blue-1", "echo-blue-2")[slot % 2]) for slot in range(256)})
FLEET: c.Transaction = (
    c.SetBase(HOME),
    c.SetPorts(PORTS),
    *map(c.SetInstance, (ONE, TWO, GREEN)),
    c.SetService(ECHO),
    c.SetService(KV),
    HALF_AND_HALF,
    c.SetListens(add={BOTH: "echo", FOUR: "echo", SIX: "kv", ON4: "echo", ON6: "kv"}),
)


class Plane(Protocol):
    """A kernel, and what somebody else can do to it."""

    @property
    def kernel(self) -> c.DataPlane:
        """The data plane under test."""

    def edit(self, name: str) -> None:
        """Change the rules of an instance or a service ("" for the fixed part) by hand."""

    def forget(self) -> None:
        """Lose the memory of what was set."""


@dataclass
class FakePlane:
    kernel: FakeKernel

    def edit(self, name: str) -> None:
        self.kernel.edit(name)

    def forget(self) -> None:
        self.kernel.forget()


@dataclass
class NftUnderTest:
    kernel: NftPlane
    box: Box
    memory: Path

    def edit(self, name: str) -> None:
        chain = {"": "guard", "echo": "service-echo", "kv": "service-kv"}.get(name, name)
        self.box.net("nft", "insert", "rule", "inet", "portfleet", chain, "ip", "saddr", "203.0.113.9", "drop")

    def forget(self) -> None:
        self.memory.unlink()

    def ruleset(self) -> str:
        return self.box.run("nft", "list", "ruleset").stdout


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    made = make_box("host")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def nft(box: Box, tmp_path: Path) -> Iterator[NftUnderTest]:
    box.net("nft", "flush", "ruleset")
    with network_of(box):
        yield NftUnderTest(NftPlane(tmp_path / "rules.json"), box, tmp_path / "rules.json")


@pytest.fixture(params=["fake", "nft"])
def plane(request: pytest.FixtureRequest) -> Plane:
    if request.param == "fake":
        return FakePlane(FakeKernel())
    found: NftUnderTest = request.getfixturevalue("nft")
    return found


def refused(kernel: c.DataPlane, transaction: c.Transaction) -> None:
    """Demand that both `check` and `run` refuse ``transaction`` and that nothing of it happens."""
    before = kernel.observe()
    for ask in (kernel.check, kernel.run):
        with pytest.raises(PortfleetError) as caught:
            ask(transaction)
        assert caught.value.code is Exit.KERNEL
        assert kernel.observe() == before


def test_at_first_there_is_nothing(plane: Plane) -> None:
    assert plane.kernel.observe() == plane.kernel.recover() == c.PlaneState()
    assert plane.kernel.read_slots("echo") == ()


def test_what_was_set_is_what_is_read(plane: Plane) -> None:
    plane.kernel.run(FLEET)

    assert plane.kernel.observe() == c.PlaneState(
        home=HOME,
        services={"echo": ECHO, "kv": KV},
        instances={rule.name: rule for rule in (ONE, TWO, GREEN)},
        slots={"echo": ("echo-blue-1", "echo-blue-2") * 128, "kv": ()},
        listens={BOTH: "echo", FOUR: "echo", SIX: "kv", ON4: "echo", ON6: "kv"},
        ports=PORTS,
        drift=frozenset(),
    )
    assert plane.kernel.read_slots("echo") == ("echo-blue-1", "echo-blue-2") * 128


def test_the_same_rules_again_change_nothing(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    before = plane.kernel.observe()

    plane.kernel.run((c.SetBase(HOME), c.SetPorts(PORTS), c.SetInstance(ONE), c.SetService(ECHO)))

    assert plane.kernel.observe() == before


@pytest.mark.parametrize(
    "affinity",
    [
        Affinity("source"),
        Affinity("source", 8, 128),
        Affinity("connection"),
        Affinity("round-robin"),
        Affinity("random"),
    ],
    ids=str,
)
def test_every_affinity_is_taken_and_read_back(plane: Plane, affinity: Affinity) -> None:
    rule = c.ServiceRule("echo", affinity, 0, 65536)
    plane.kernel.run((c.SetBase(HOME), c.SetService(rule)))

    state = plane.kernel.observe()
    assert (state.services, state.drift) == ({"echo": rule}, frozenset())


@pytest.mark.parametrize(
    "ranges",
    [
        set(),
        {(1, 65535)},
        {(7100, 7107), (7108, 7115)},
        {(7100, 7107), (7109, 7115), (7108, 7108)},
        {(65534, 65535), (1, 2)},
        {(7000 + 10 * n, 7009 + 10 * n) for n in range(100)},
    ],
    ids=lambda ranges: f"{len(ranges)} ranges",
)
def test_ranges_of_ports(plane: Plane, ranges: set[tuple[int, int]]) -> None:
    plane.kernel.run(FLEET)
    plane.kernel.run((c.SetPorts(frozenset(ranges)),))

    assert _ports(plane.kernel.observe().ports) == _ports(ranges)
    assert plane.kernel.observe().ports == ranges


def _ports(ranges: set[tuple[int, int]] | frozenset[tuple[int, int]]) -> set[int]:
    return {port for low, high in ranges for port in range(low, high + 1)}


def test_listen_addresses_come_go_and_change_hands_in_one_transaction(plane: Plane) -> None:
    plane.kernel.run(FLEET)

    add = {BOTH: "kv", Listen(7001, None, (4, 6)): "kv"}
    plane.kernel.run((c.SetListens(add, remove={BOTH: "echo", FOUR: "echo"}),))

    assert plane.kernel.observe().listens == {
        BOTH: "kv",
        Listen(7001, None, (4, 6)): "kv",
        SIX: "kv",
        ON4: "echo",
        ON6: "kv",
    }


def test_one_port_may_lead_to_two_services_by_family(plane: Plane) -> None:
    four, six = Listen(7000, None, (4,)), Listen(7000, None, (6,))
    plane.kernel.run(FLEET)
    plane.kernel.run((c.SetListens(remove={BOTH: "echo"}),))

    plane.kernel.run((c.SetListens(add={four: "echo", six: "kv"}),))

    listens = plane.kernel.observe().listens
    assert (listens[four], listens[six], BOTH in listens) == ("echo", "kv", False)


def test_slots_move_one_by_one_and_all_at_once(plane: Plane) -> None:
    plane.kernel.run(FLEET)

    plane.kernel.run((c.PointSlots("echo", {0: ("echo-blue-1", "echo-green-1"), 1: ("echo-blue-2", None)}),))
    assert plane.kernel.read_slots("echo")[:3] == ("echo-green-1", None, "echo-blue-1")

    moves = {slot: (old, "echo-green-1") for slot, old in enumerate(plane.kernel.read_slots("echo"))}
    plane.kernel.run((c.PointSlots("echo", moves),))
    assert plane.kernel.read_slots("echo") == ("echo-green-1",) * 256


def test_a_table_of_the_largest_size_moves_in_one_transaction(plane: Plane) -> None:
    plane.kernel.run((c.SetBase(HOME), c.SetInstance(ONE), c.SetInstance(TWO), c.SetService(ECHO)))
    plane.kernel.run((c.PointSlots("echo", dict.fromkeys(range(65536), (None, "echo-blue-1"))),))
    plane.kernel.run((c.PointSlots("echo", dict.fromkeys(range(65536), ("echo-blue-1", "echo-blue-2"))),))
    assert plane.kernel.read_slots("echo") == ("echo-blue-2",) * 65536


NEW = c.SetInstance(c.InstanceRule("echo-blue-9", 9, 7109))
REFUSED: dict[str, c.Transaction] = {
    "an unknown instance": (NEW, c.PointSlots("echo", {0: ("echo-blue-1", "echo-blue-8")})),
    "a slot that points nowhere is taken away": (NEW, c.PointSlots("kv", {0: ("echo-blue-1", None)})),
    "a slot that points somewhere is taken for free": (NEW, c.PointSlots("echo", {0: (None, "echo-blue-2")})),
    "an unknown service's slots": (NEW, c.PointSlots("nope", {0: (None, "echo-blue-1")})),
    "a listen for an unknown service": (NEW, c.SetListens(add={Listen(9, None, (4,)): "nope"})),
    "a listen that is another's": (NEW, c.SetListens(add={BOTH: "kv"})),
    "a listen of one family that is another's": (NEW, c.SetListens(add={Listen(7000, None, (6,)): "kv"})),
    "a listen taken away that is not there": (NEW, c.SetListens(remove={Listen(9, None, (4,)): "echo"})),
    "an instance dropped that slots point at": (NEW, c.DropInstance("echo-blue-1")),
    "an instance dropped that is not there": (NEW, c.DropInstance("echo-blue-8")),
    "a service dropped that is listened for": (NEW, c.DropService("echo")),
    "a service dropped that is not there": (NEW, c.DropService("nope")),
    "a detour to an unknown instance": (NEW, c.Detour("echo-blue-1", "echo-blue-8")),
    "detours in a ring": (NEW, c.Detour("echo-blue-1", "echo-blue-2"), c.Detour("echo-blue-2", "echo-blue-1")),
    "the last change of many": (NEW, c.SetPorts(frozenset()), c.SetListens(add={ON6: "echo"})),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refused_transaction_changes_nothing(plane: Plane, why: str) -> None:
    plane.kernel.run(FLEET)
    refused(plane.kernel, REFUSED[why])


def test_without_a_table_there_is_nothing_to_change(plane: Plane) -> None:
    for change in (c.SetPorts(PORTS), c.SetInstance(ONE), c.SetService(ECHO), c.DropAll()):
        refused(plane.kernel, (change,))


def test_a_check_changes_nothing(plane: Plane) -> None:
    plane.kernel.check(FLEET)
    assert plane.kernel.observe() == c.PlaneState()

    plane.kernel.run(FLEET)
    before = plane.kernel.observe()
    plane.kernel.check((NEW, c.SetPorts(frozenset()), c.DropAll()))
    assert plane.kernel.observe() == before


@pytest.mark.parametrize(
    ("name", "mend"),
    [("", c.SetBase(HOME)), ("echo", c.SetService(ECHO)), ("echo-blue-2", c.SetInstance(TWO))],
    ids=["the fixed part", "a service", "an instance"],
)
def test_a_hand_edit_is_seen_and_mended_and_the_rest_stays(plane: Plane, name: str, mend: c.Change) -> None:
    plane.kernel.run(FLEET)
    before = plane.kernel.observe()

    plane.edit(name)
    edited = plane.kernel.observe()
    plane.kernel.run((mend,))

    assert edited.drift == {name}
    assert (edited.slots, edited.listens, edited.ports) == (before.slots, before.listens, before.ports)
    assert name not in before.services or edited.services[name] is None
    assert name not in before.instances or edited.instances[name] is None
    assert plane.kernel.observe() == before


def test_a_lost_memory_makes_everything_drift_and_rules_are_read_out_of_themselves(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    before = plane.kernel.observe()

    plane.forget()
    lost, found = plane.kernel.observe(), plane.kernel.recover()

    assert lost.drift == {"", "echo", "kv", "echo-blue-1", "echo-blue-2", "echo-green-1"}
    assert (lost.home, lost.slots, lost.listens, lost.ports) == (HOME, before.slots, before.listens, before.ports)
    assert set(lost.instances.values()) == {None} and set(lost.services.values()) == {None}
    assert found.instances == before.instances
    rules = [rule for _, rule in sorted(found.services.items()) if rule]
    assert [(rule.name, rule.seed, rule.slots) for rule in rules] == [("echo", 0x5EED, 256), ("kv", 0x7FFFFFFF, 256)]


def test_a_detour_is_drift_until_the_instance_is_set_right(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    before = plane.kernel.observe()

    plane.kernel.run((c.Detour("echo-blue-1", "echo-blue-2"),))
    assert plane.kernel.observe().drift == {"echo-blue-1"}
    assert plane.kernel.observe().slots == before.slots

    plane.kernel.run((c.SetInstance(ONE),))
    assert plane.kernel.observe() == before


def test_an_instance_that_a_detour_leads_to_cannot_go(plane: Plane) -> None:
    plane.kernel.run((c.SetBase(HOME), c.SetInstance(ONE), c.SetInstance(TWO), c.Detour("echo-blue-1", "echo-blue-2")))
    refused(plane.kernel, (c.DropInstance("echo-blue-2"),))


def test_services_and_instances_go_when_nothing_points_to_them(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    plane.kernel.run((c.SetListens(remove={SIX: "kv", ON6: "kv"}),))
    plane.kernel.run((c.DropService("kv"), c.DropInstance("echo-green-1")))

    state = plane.kernel.observe()
    assert (set(state.services), set(state.slots), set(state.instances)) == (
        {"echo"},
        {"echo"},
        {"echo-blue-1", "echo-blue-2"},
    )


def test_all_of_it_goes(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    plane.kernel.run((c.DropAll(),))
    assert plane.kernel.observe() == c.PlaneState()
    plane.kernel.run(FLEET)
    assert plane.kernel.observe().drift == frozenset()


FOREIGN = """
table inet firewall {
  set blocked {
    type ipv4_addr
    flags interval
    elements = { 203.0.113.0/28, 198.51.100.7 }
  }
  chain input {
    type filter hook input priority 0; policy accept
    ip saddr @blocked counter drop comment "by hand"
  }
}
table ip nat {
  chain DOCKER {
    tcp dport 8080 counter dnat to 172.17.0.2:80
  }
  chain PREROUTING {
    type nat hook prerouting priority -100; policy accept
    fib daddr type local counter jump DOCKER
  }
  chain POSTROUTING {
    type nat hook postrouting priority 100; policy accept
    ip saddr 172.17.0.0/16 counter masquerade
  }
}
table inet portfleet2 {
  map services {
    type inet_service : verdict
  }
}
"""


def test_others_tables_stay_byte_for_byte(nft: NftUnderTest) -> None:
    nft.box.run("nft", "-f", "-", text=FOREIGN)
    before = nft.ruleset()

    nft.kernel.run(FLEET)
    between = nft.ruleset()
    nft.kernel.run((c.SetInstance(ONE), c.SetListens(remove={SIX: "kv"})))
    nft.kernel.run((c.DropAll(),))

    assert between.startswith(before) and len(between) > len(before)
    assert nft.ruleset() == before


def test_a_table_of_that_name_made_by_somebody_else_is_seen(nft: NftUnderTest) -> None:
    nft.box.run("nft", "-f", "-", text="add table inet portfleet\nadd chain inet portfleet mine\n")
    state = nft.kernel.observe()
    assert state.home == "" and "" in state.drift


def test_what_was_remembered_is_not_believed_blindly(nft: NftUnderTest) -> None:
    """The memory of another boot, or a damaged one, is only a hint: what nft lists decides."""
    nft.kernel.run(FLEET)
    before = nft.memory.read_text()
    for damaged in ("", "[]", "{", json.dumps({"echo-blue-1": {}}), json.dumps({"echo-blue-1": 3})):
        nft.memory.write_text(damaged)
        assert nft.kernel.observe().drift >= {"", "echo", "echo-blue-1"}
    nft.memory.write_text(before)
    nft.box.net("nft", "flush", "ruleset")
    assert nft.kernel.observe() == c.PlaneState()


def test_a_refusal_shows_what_was_refused_and_hints(nft: NftUnderTest) -> None:
    nft.kernel.run(FLEET)
    with pytest.raises(PortfleetError) as caught:
        nft.kernel.run((c.PointSlots("echo", {0: ("echo-blue-1", None)}), c.Detour("echo-blue-1", "echo-blue-8")))
    assert "nothing was applied" in caught.value.message and "echo-blue-8" in caught.value.message
    assert "    1  delete element inet portfleet slots-echo { 0 }" in caught.value.message
    assert caught.value.hint


def test_nothing_but_identifiers_ever_becomes_nft_text(nft: NftUnderTest) -> None:
    for name in ("a b", "a;flush ruleset", "a}", "a\nadd table x", "Ä", "", "1a"):
        points = c.PointSlots(name, {0: (None, "x")}), c.PointSlots("x", {0: (None, name)})
        listens = c.SetListens(add={BOTH: name})
        for change in (c.SetInstance(c.InstanceRule(name, 1, 1)), c.DropService(name), listens, *points):
            with pytest.raises(ValueError, match="not an identifier"):
                nft.kernel.text((change,))
    for address in ("fe80::1%x ; y", "fe80::1%x }\nadd table x", "example", ""):
        listens = c.SetListens(add={Listen(9, address, (6,)): "x"})
        remote = c.SetInstance(c.InstanceRule("x-remote-1", 1, 1, remote=Listen(9, address, (6,))))
        for wrong in (listens, remote, c.SetPins("x", {address: "x-blue-1"})):
            with pytest.raises(ValueError, match="not an identifier"):
                nft.kernel.text((wrong,))
