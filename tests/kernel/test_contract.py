"""What a data plane promises, kept by nftables and HAProxy in a box, and by the planes in memory of other tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest

from portfleet.core import changes as c
from portfleet.core.access import Access, Range
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Affinity, Listen
from portfleet.dataplane.haproxy.plane import HaproxyPlane
from portfleet.dataplane.interface import DataPlane
from portfleet.dataplane.nft.plane import NftPlane
from support.fake_plane import FakePlane
from support.haproxies import Haproxies, haproxies
from support.netns import network_of
from support.plain_plane import PlainPlane
from support.sandbox import Box, make_box

HOME = "0123456789abcdef"
ECHO = c.ServiceRule("echo", Affinity("source"), 0x5EED, 256)
KV = c.ServiceRule("kv", Affinity("source", 24, 56), 0x7FFFFFFF, 256)
ONE, TWO = c.InstanceRule("echo-blue-1", 1, 7101), c.InstanceRule("echo-blue-2", 2, 7102)
GREEN = c.InstanceRule("echo-green-1", 0xFFFFFF, 65535)
BOTH, FOUR, SIX = Listen(7000, None, (4, 6)), Listen(7001, None, (4,)), Listen(7002, None, (6,))
ON4, ON6 = Listen(7003, "192.0.2.1", (4,)), Listen(7003, "2001:db8::1", (6,))
PORTS = frozenset({(7100, 7199), (443, 443), (8000, 8001)})
HALF_AND_HALF = c.Route(ECHO, ("echo-blue-1", "echo-blue-2") * 128)
FLEET: c.Transaction = (
    c.SetFleet(HOME, PORTS),
    *map(c.SetInstance, (ONE, TWO, GREEN)),
    c.SetService(ECHO),
    c.SetService(KV),
    HALF_AND_HALF,
    c.SetListens(add={BOTH: "echo", FOUR: "echo", SIX: "kv", ON4: "echo", ON6: "kv"}),
)


class Plane(Protocol):
    """A kernel, and what another program can do to it."""

    @property
    def kernel(self) -> DataPlane:
        """The data plane under test."""

    def edit(self, name: str) -> None:
        """Change the rules of an instance or a service ("" for the fixed part) by hand."""

    def forget(self) -> None:
        """Lose the memory of what was set."""


@dataclass
class InMemoryUnderTest:
    kernel: FakePlane | PlainPlane

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


@dataclass
class HaproxyUnderTest:
    running: Haproxies

    @property
    def kernel(self) -> HaproxyPlane:
        return self.running.plane

    def edit(self, name: str) -> None:
        folder = self.running.folder
        if not name:
            with (folder / "haproxy-1.cfg").open("a") as file:
                file.write("# by hand\n")
        elif name in ("echo", "kv"):
            self.running.tell(1, f"disable frontend {name}")
        else:
            service = name.split("-", maxsplit=1)[0]
            self.running.tell(2, f"set map {folder}/services/{service}.instances {name} p9")

    def forget(self) -> None:
        for file in (self.running.folder / "fleet.json", *self.running.folder.glob("services/*.json")):
            file.unlink()


@pytest.fixture
def haproxy(box: Box) -> Iterator[HaproxyUnderTest]:
    box.ip("addr replace 192.0.2.1/32 dev lo", "addr replace 2001:db8::1/128 dev lo")  # what is listened on is bound
    with network_of(box), haproxies() as running:
        yield HaproxyUnderTest(running)


@pytest.fixture(params=["fake", "plain", "nft", pytest.param("haproxy", marks=pytest.mark.long)])
def plane(request: pytest.FixtureRequest) -> Plane:
    if request.param in ("fake", "plain"):
        return InMemoryUnderTest(FakePlane() if request.param == "fake" else PlainPlane())
    found: Plane = request.getfixturevalue(request.param)
    return found


def refused(kernel: DataPlane, transaction: c.Transaction) -> None:
    """Demand that both `check` and `run` refuse ``transaction`` and that nothing of it happens."""
    before = kernel.observe()
    for ask in (kernel.check, kernel.run):
        with pytest.raises(PortfleetError) as caught:
            ask(transaction)
        assert caught.value.code is Exit.KERNEL
        assert kernel.observe() == before


def test_at_first_there_is_nothing(plane: Plane) -> None:
    assert plane.kernel.observe() == plane.kernel.recover() == c.PlaneState()
    assert plane.kernel.home() is None
    assert plane.kernel.read_slots("echo") == ()


def test_what_was_set_is_what_is_read(plane: Plane) -> None:
    plane.kernel.run(FLEET)

    assert plane.kernel.observe() == c.PlaneState(
        fleet=c.SetFleet(HOME, PORTS),
        services={"echo": ECHO, "kv": KV},
        instances={rule.name: rule for rule in (ONE, TWO, GREEN)},
        slots={"echo": ("echo-blue-1", "echo-blue-2") * 128, "kv": ()},
        listens={BOTH: "echo", FOUR: "echo", SIX: "kv", ON4: "echo", ON6: "kv"},
        drift=frozenset(),
    )
    assert plane.kernel.read_slots("echo") == ("echo-blue-1", "echo-blue-2") * 128
    assert plane.kernel.home() == HOME


def test_the_same_rules_again_change_nothing(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    before = plane.kernel.observe()

    plane.kernel.run((c.SetFleet(HOME, PORTS), c.SetInstance(ONE), c.SetService(ECHO)))

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
    plane.kernel.run((c.SetFleet(HOME, PORTS), c.SetService(rule)))

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
    plane.kernel.run((c.SetFleet(HOME, frozenset(ranges)),))

    fleet = plane.kernel.observe().fleet
    assert fleet is not None and fleet.ports == ranges
    assert _ports(fleet.ports) == _ports(ranges)


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

    table = ("echo-green-1", None, *HALF_AND_HALF.table[2:])
    plane.kernel.run((c.Route(ECHO, table),))
    assert plane.kernel.read_slots("echo") == table

    plane.kernel.run((c.Route(ECHO, ("echo-green-1",) * 256),))
    assert plane.kernel.read_slots("echo") == ("echo-green-1",) * 256


def test_a_table_that_is_there_already_changes_nothing(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    before = plane.kernel.observe()
    plane.kernel.run((HALF_AND_HALF,))
    assert plane.kernel.observe() == before


def test_slots_point_nowhere_and_somewhere_again(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    plane.kernel.run((c.Route(ECHO, (None,) * 256),))
    assert not any(plane.kernel.read_slots("echo"))
    plane.kernel.run((HALF_AND_HALF,))
    assert plane.kernel.read_slots("echo") == HALF_AND_HALF.table


@pytest.mark.long
def test_a_table_of_the_largest_size_moves_in_one_transaction(plane: Plane) -> None:
    plane.kernel.run((c.SetFleet(HOME, PORTS), c.SetInstance(ONE), c.SetInstance(TWO), c.SetService(ECHO)))
    plane.kernel.run((c.Route(ECHO, ("echo-blue-1",) * 65536),))
    plane.kernel.run((c.Route(ECHO, ("echo-blue-2",) * 65536),))
    assert plane.kernel.read_slots("echo") == ("echo-blue-2",) * 65536


STICKY = replace(ECHO, sticky=c.Sticky(3600, 1024), pins=True)
LIMITED = [replace(rule, limit=100, sticky=c.Sticky(3600, 1024), key=ECHO.affinity) for rule in (ONE, TWO)]
PINS = {"198.18.0.0/24": "echo-blue-1", "2001:db8:7::/48": "echo-blue-2"}


def test_what_goes_with_the_slots_follows_them(plane: Plane) -> None:
    """Pins are kept, a route settles what its rule asks for, and dropping an instance needs it out of the way first."""
    rule = replace(STICKY, limited=True, tries=2)
    plane.kernel.run((*FLEET, *map(c.SetInstance, LIMITED), c.SetService(rule)))
    assert plane.kernel.observe().unsettled == {"echo"}

    plane.kernel.run((c.Route(rule, HALF_AND_HALF.table, PINS, ("echo-blue-2", "echo-blue-1")),))
    state = plane.kernel.observe()
    assert (state.unsettled, state.drift, dict(state.pins["echo"])) == (frozenset(), frozenset(), PINS)

    plane.kernel.run((c.Route(rule, ("echo-blue-1",) * 256, {}),))
    state = plane.kernel.observe()
    assert (state.unsettled, state.pins, set(state.slots["echo"])) == (frozenset(), {}, {"echo-blue-1"})
    plane.kernel.run((c.DropInstance("echo-blue-2"),))
    assert "echo-blue-2" not in plane.kernel.observe().instances


def test_limits_come_to_instances_one_after_the_other(plane: Plane) -> None:
    """As they are started with them: one that has none yet takes its share, and what is too much for others later."""
    rule = replace(ECHO, limited=True, tries=2)
    route = c.Route(rule, HALF_AND_HALF.table)
    first, second = (replace(one, limit=100) for one in (ONE, TWO))
    plane.kernel.run((*FLEET, c.SetService(rule), c.SetInstance(first), route))
    assert plane.kernel.observe().unsettled == frozenset()

    plane.kernel.run((c.SetInstance(second),))
    plane.kernel.run((route,))
    state = plane.kernel.observe()
    assert (state.unsettled, state.drift, state.instances["echo-blue-2"]) == (frozenset(), frozenset(), second)


FILTERED = replace(ECHO, filters=True)
WHO = Access(
    allow=(Range("198.18.0.0", "198.18.255.255"), Range("2001:db8::", "2001:db8::ffff")),
    deny=(Range("198.18.7.0", "198.18.7.8"), Range("198.18.7.9", "198.18.7.9", 4_000_000_000), Range("::", "::1")),
)


def test_who_may_connect_is_kept_until_it_is_set_anew_or_the_service_goes(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    assert plane.kernel.observe().access == {}

    plane.kernel.run((c.SetService(FILTERED), c.SetAccess("echo", WHO)))
    state = plane.kernel.observe()
    assert (dict(state.access), state.services["echo"], state.drift) == ({"echo": WHO}, FILTERED, frozenset())
    plane.kernel.run((c.SetService(FILTERED), c.SetAccess("echo", WHO)))
    assert plane.kernel.observe() == state

    less = replace(WHO, allow=(), deny=WHO.deny[:1])
    plane.kernel.run((c.SetAccess("echo", less),))
    assert plane.kernel.observe().access == {"echo": less}
    plane.kernel.run((c.SetAccess("echo", Access()), c.SetService(ECHO)))
    state = plane.kernel.observe()
    assert (dict(state.access), state.services["echo"], state.drift) == ({}, ECHO, frozenset())


def test_a_service_goes_with_its_slots_and_instances(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    plane.kernel.run((c.SetListens(remove={BOTH: "echo", FOUR: "echo", ON4: "echo"}),))
    names = ("echo-blue-1", "echo-blue-2", "echo-green-1")
    plane.kernel.run((c.DropService("echo"), *map(c.DropInstance, names)))

    state = plane.kernel.observe()
    assert (set(state.services), dict(state.instances), set(state.slots)) == ({"kv"}, {}, {"kv"})


NEW = c.SetInstance(c.InstanceRule("echo-blue-9", 9, 7109))
REFUSED: dict[str, c.Transaction] = {
    "an unknown instance": (NEW, c.Route(ECHO, ("echo-blue-8", *HALF_AND_HALF.table[1:]))),
    "an unknown service's slots": (
        NEW,
        c.Route(c.ServiceRule("nope", Affinity("source"), 1, 256), ("echo-blue-1",) * 256),
    ),
    "a listen for an unknown service": (NEW, c.SetListens(add={Listen(9, None, (4,)): "nope"})),
    "a listen that is another's": (NEW, c.SetListens(add={BOTH: "kv"})),
    "a listen of one family that is another's": (NEW, c.SetListens(add={Listen(7000, None, (6,)): "kv"})),
    "a listen taken away that is not there": (NEW, c.SetListens(remove={Listen(9, None, (4,)): "echo"})),
    "an instance dropped that slots point at": (NEW, c.DropInstance("echo-blue-1")),
    "an instance dropped that is not there": (NEW, c.DropInstance("echo-blue-8")),
    "a service dropped that is listened for": (NEW, c.DropService("echo")),
    "a service dropped that is not there": (NEW, c.DropService("nope")),
    "a diversion to an unknown instance": (NEW, c.Divert("echo-blue-1", "echo-blue-8")),
    "diversions in a ring": (NEW, c.Divert("echo-blue-1", "echo-blue-2"), c.Divert("echo-blue-2", "echo-blue-1")),
    "who may connect, of a service that does not ask": (NEW, c.SetAccess("echo", Access())),
    "who may connect, of an unknown service": (NEW, c.SetAccess("nope", Access())),
    "the last change of many": (NEW, c.SetFleet(HOME), c.SetListens(add={ON6: "echo"})),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refused_transaction_changes_nothing(plane: Plane, why: str) -> None:
    plane.kernel.run(FLEET)
    refused(plane.kernel, REFUSED[why])


def test_without_a_table_there_is_nothing_to_change(plane: Plane) -> None:
    for change in (c.SetInstance(ONE), c.SetService(ECHO), HALF_AND_HALF, c.DropAll()):
        refused(plane.kernel, (change,))


def test_a_check_changes_nothing(plane: Plane) -> None:
    plane.kernel.check(FLEET)
    assert plane.kernel.observe() == c.PlaneState()

    plane.kernel.run(FLEET)
    before = plane.kernel.observe()
    plane.kernel.check((NEW, c.SetFleet(HOME), c.DropAll()))
    assert plane.kernel.observe() == before


@pytest.mark.parametrize(
    ("name", "mend"),
    [("", c.SetFleet(HOME, PORTS)), ("echo", c.SetService(ECHO)), ("echo-blue-2", c.SetInstance(TWO))],
    ids=["the fixed part", "a service", "an instance"],
)
def test_a_hand_edit_is_seen_and_mended_and_the_rest_stays(plane: Plane, name: str, mend: c.Change) -> None:
    plane.kernel.run(FLEET)
    before = plane.kernel.observe()

    plane.edit(name)
    edited = plane.kernel.observe()
    plane.kernel.run((mend,))

    assert edited.drift == {name}
    assert (edited.slots, edited.listens, edited.fleet) == (before.slots, before.listens, before.fleet)
    assert name not in before.services or edited.services[name] is None
    assert name not in before.instances or edited.instances[name] is None
    assert plane.kernel.observe() == before


def test_a_lost_memory_makes_everything_drift_and_rules_are_read_out_of_themselves(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    before = plane.kernel.observe()

    plane.forget()
    lost, found = plane.kernel.observe(), plane.kernel.recover()

    assert lost.drift == {"", "echo", "kv", "echo-blue-1", "echo-blue-2", "echo-green-1"}
    assert (lost.fleet, lost.slots, lost.listens) == (before.fleet, before.slots, before.listens)
    assert set(lost.instances.values()) == {None} and set(lost.services.values()) == {None}
    assert found.instances == before.instances
    rules = [rule for _, rule in sorted(found.services.items()) if rule]
    assert [(rule.name, rule.seed, rule.slots) for rule in rules] == [("echo", 0x5EED, 256), ("kv", 0x7FFFFFFF, 256)]


def test_a_diversion_is_drift_until_the_instance_is_set_right(plane: Plane) -> None:
    plane.kernel.run(FLEET)
    before = plane.kernel.observe()

    plane.kernel.run((c.Divert("echo-blue-1", "echo-blue-2"),))
    assert plane.kernel.observe().drift == {"echo-blue-1"}
    assert plane.kernel.observe().slots == before.slots

    plane.kernel.run((c.SetInstance(ONE),))
    assert plane.kernel.observe() == before


def test_an_instance_that_a_diversion_leads_to_cannot_go(plane: Plane) -> None:
    plane.kernel.run(
        (
            c.SetFleet(HOME, PORTS), c.SetInstance(ONE), c.SetInstance(TWO), c.SetService(ECHO),
            c.Divert("echo-blue-1", "echo-blue-2"),
        )
    )  # fmt: skip
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
    assert state.home == nft.kernel.home() == "" and "" in state.drift


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
        gone = c.Route(ECHO, (None, *HALF_AND_HALF.table[1:]))
        nft.kernel.run((gone, c.DropInstance("echo-blue-8")))
    assert "nothing was applied" in caught.value.message and "echo-blue-8" in caught.value.message
    assert "    1  delete element inet portfleet slots-echo { 0 }" in caught.value.message
    assert caught.value.hint


def test_nothing_but_identifiers_ever_becomes_nft_text(nft: NftUnderTest) -> None:
    for name in ("a b", "a;flush ruleset", "a}", "a\nadd table x", "Ä", "", "1a"):
        points = c.Route(replace(ECHO, name=name), ("x",)), c.Route(ECHO, (name,)) if name else c.DropService(name)
        listens = c.SetListens(add={BOTH: name})
        for change in (c.SetInstance(c.InstanceRule(name, 1, 1)), c.DropService(name), listens, *points):
            with pytest.raises(ValueError, match="not an identifier"):
                nft.kernel.text((change,))
    for address in ("fe80::1%x ; y", "fe80::1%x }\nadd table x", "example", ""):
        listens = c.SetListens(add={Listen(9, address, (6,)): "x"})
        remote = c.SetInstance(c.InstanceRule("x-remote-1", 1, 1, remote=Listen(9, address, (6,))))
        pinned = c.Route(replace(ECHO, pins=True), (), {address: "echo-blue-1"})
        for wrong in (listens, remote, pinned):
            with pytest.raises(ValueError, match="not an identifier"):
                nft.kernel.text((wrong,))
