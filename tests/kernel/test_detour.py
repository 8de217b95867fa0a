"""A diversion that goes straight to the kernel is the one that libnftables would make, and leads new clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from portfleet.core.changes import Divert, SetInstance, SetService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.dataplane.nft.context import NftContext
from portfleet.dataplane.nft.reader import NftReader
from support.netns import network_of
from support.plane import ECHO, Plane
from support.sandbox import client4, client6

ONE, TWO, THREE, FOUR = (f"echo-blue-{number}" for number in (1, 2, 3, 4))
CLIENTS = [client(number * 7) for client in (client4, client6) for number in range(1, 41)]
PINS = {"198.18.0.0/16": "1", "2001:db8:1::/48": "1"}


@contextmanager
def loaded(rules: Plane, text: str = ECHO) -> Iterator[Callable[[], dict[int, int]]]:
    """Load the rules and return what reads the diversions, within the network of the rules."""
    rules.load(text)
    with network_of(rules.boxes.host):
        yield lambda: NftReader("portfleet").registers("diverted-echo")


AWAY, ON = Divert(ONE, TWO), Divert(TWO, THREE)


@pytest.mark.parametrize(
    ("changes", "then"),
    [
        ([AWAY], {1: 2}),
        ([AWAY, AWAY], {1: 2}),
        ([AWAY, Divert(ONE, THREE)], {1: 3}),
        ([AWAY, ON], {1: 3, 2: 3}),
        ([ON, AWAY], {1: 3, 2: 3}),
        ([AWAY, ON, Divert(THREE, FOUR)], {1: 4, 2: 4, 3: 4}),
    ],
)
def test_it_is_what_the_text_makes(rules: Plane, changes: list[Divert], then: dict[int, int]) -> None:
    with loaded(rules) as diverted:
        instances = rules.desired.services["echo"].instances
        for change in changes:
            rules.kernel.run((change,))
        assert diverted() == then
        for instance in instances:
            rules.kernel.run((SetInstance(instance.rule),))
        assert diverted() == {} and rules.is_as_wanted()
        again = SetInstance(instances[-1].rule)
        rules.kernel.run((again, *changes))  # libnftables': what is more than a diversion alone
        assert diverted() == then


def test_it_counts_as_our_own_transaction(rules: Plane) -> None:
    with loaded(rules):
        guardian = rules.kernel.guardian()
        try:
            guardian.read()
            rules.kernel.run((Divert(ONE, TWO),))
            assert rules.kernel.read_slots("echo")
            assert guardian.read() == []
            NftContext().do("add chain inet portfleet foreign\n")
            assert [change.lost for change in guardian.read()] == [False]
        finally:
            guardian.close()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (Divert(ONE, "echo-blue-8"), "it has no rules of echo-blue-8"),
        (Divert("echo-blue-8", ONE), "it has no rules of echo-blue-8"),
        (Divert(THREE, ONE), "diversions in a ring: echo-blue-3 is to lead to echo-blue-1"),
    ],
)
def test_what_is_refused_changes_nothing(rules: Plane, change: Divert, why: str) -> None:
    with loaded(rules) as diverted:
        rules.kernel.run((Divert(ONE, THREE),))
        with pytest.raises(PortfleetError, match=f"nothing was applied: {why}") as refused:
            rules.kernel.run((change,))
        assert refused.value.code == Exit.KERNEL
        assert diverted() == {1: 3}


def test_numbers_that_have_changed_are_read_anew(rules: Plane) -> None:
    with loaded(rules) as diverted:
        rules.kernel.run((Divert(ONE, TWO),))
        NftContext().do(
            "delete element inet portfleet instances-echo { 0:2 }\n"
            "add element inet portfleet instances-echo { 0:9 : goto echo-blue-2 }\n"
        )
        rules.kernel.run((Divert(THREE, TWO),))
        assert diverted() == {1: 2, 3: 9}


def test_rules_without_the_map_say_so(rules: Plane) -> None:
    """As an earlier version has made them: the slots alone lead clients elsewhere until `apply` sets them anew."""
    with loaded(rules):
        NftContext().do("flush chain inet portfleet service-echo\ndelete map inet portfleet diverted-echo\n")
        with pytest.raises(PortfleetError, match="the rules of echo are another version's") as refused:
            rules.kernel.run((Divert(ONE, TWO),))
        assert refused.value.hint == "portfleet apply"


@pytest.mark.parametrize("more", ["", 'sticky = "1h"\n', "pinned"])
def test_no_new_client_comes_to_who_is_diverted_until_it_is_set_right(rules: Plane, more: str) -> None:
    rules.load(ECHO + more.replace("pinned", ""))
    if more == "pinned":
        rules.load(ECHO, rules.record(pins=PINS))
    rules.serve()
    before = rules.met(CLIENTS)
    assert ONE in before.values()

    rules.kernel.run((Divert(ONE, TWO),))
    assert rules.met(CLIENTS) == {client: TWO if name == ONE else name for client, name in before.items()}
    rules.kernel.run((Divert(TWO, THREE),))
    led = {client: THREE if name in (ONE, TWO) else name for client, name in before.items()}
    assert rules.met(CLIENTS) == led

    rules.kernel.run(tuple(SetInstance(one.rule) for one in rules.desired.services["echo"].instances))
    assert rules.met(CLIENTS) == before


def test_own_clients_of_a_box_with_instances_elsewhere_are_led_too(rules: Plane) -> None:
    rules.load(ECHO.replace('":7000"', '"0.0.0.0:7000"') + 'remote = ["192.0.2.77:7100"]\n')
    assert [
        part for part in rules.kernel.text((SetService(rules.want.rule),)).split("\n") if "@diverted-echo" in part
    ] == ["    meta priority set meta priority map @diverted-echo"] * 2
