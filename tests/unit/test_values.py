"""The small readers: durations, listen addresses, affinities, instance names, placeholders."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet.commands.explain import parse_client
from portfleet.commands.pin import parse_network
from portfleet.config.load import NAME, name_problem
from portfleet.config.reader import parse_affinity, parse_duration, parse_listen
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import COLOURS, Affinity, Colour, Instance, Listen, member_instance, parse_instance
from portfleet.core.placeholders import expand, placeholders
from portfleet.dataplane.nft.affinity import expressions, slot_for
from portfleet.dataplane.nft.jhash import slot_of
from support.fleets import ECHO, PATHS, problems

NAMES = st.from_regex(NAME, fullmatch=True).filter(lambda name: name_problem(name) is None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("10m", 600), ("1h", 3600), ("2d", 172800), ("1.5s", 1.5), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5S", "1h30m", "1e3s", ".5s", "5s\n", "٥s;"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        (":7000", Listen(7000, None, (4, 6))),
        ("0.0.0.0:7000", Listen(7000, None, (4,))),
        ("[::]:7000", Listen(7000, None, (6,))),
        ("192.0.2.1:1", Listen(1, "192.0.2.1", (4,))),
        ("[2001:db8::1]:65535", Listen(65535, "2001:db8::1", (6,))),
    ],
)
def test_listen_addresses_print_as_they_are_written(text: str, listen: Listen) -> None:
    assert parse_listen(text) == listen
    assert str(listen) == text


def test_an_ipv6_address_has_one_form() -> None:
    assert parse_listen("[2001:DB8:0::0:1]:7000") == parse_listen("[2001:db8::1]:7000")


@pytest.mark.parametrize(
    "text", ["", "7000", ":0", ":65536", ":x", "*:7000", "::1:7000", "[::1]7000", "1.2.3:7000", "host:7000", "1.2.3.4"]
)
def test_what_is_no_listen_address(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("224.0.0.1:7000", "multicast"),
        ("239.255.255.255:7000", "multicast"),
        ("[ff02::1]:7000", "multicast"),
        ("255.255.255.255:7000", "broadcast"),
        ("0.0.0.1:7000", "begins with 0"),
        ("[::ffff:192.0.2.1]:7000", "in the form of IPv6"),
        ("[::ffff:0:0]:7000", "in the form of IPv6"),
        ("[::ffff:127.0.0.1]:7000", "in the form of IPv6"),
        ("[::192.0.2.1]:7000", "in the form of IPv6"),
        ("[::%eth0]:7000", r"scope \(%\)"),
        ("[fe80::1%eth0]:7000", r"scope \(%\)"),
    ],
)
def test_an_address_that_no_connection_can_lead_to(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_listen(text)
    for key in ("listen", "remote"):
        base = ECHO if key == "remote" else ECHO.replace('listen = [":7000"]', "")
        (found,) = problems(f"{base}{key} = ['{text}']")
        assert found.path == f"service.echo.{key}[0]" and found.hint, found


@pytest.mark.parametrize(
    "text", ["127.0.0.1:1", "[::1]:1", "169.254.1.1:1", "[fe80::1]:1", "10.0.0.255:1", "240.0.0.1:1", "100.64.0.1:1"]
)
def test_unusual_addresses_that_hosts_have(text: str) -> None:
    assert str(parse_listen(text)) == text


@pytest.mark.parametrize("text", ["source", "source/24", "source/24/56", "connection", "round-robin", "random"])
def test_affinities_print_as_they_are_written(text: str) -> None:
    assert str(parse_affinity(text)) == text


@given(NAMES, st.sampled_from([*COLOURS, None]), st.integers(1, 1024))
def test_an_instances_name_can_be_read_back(service: str, colour: Colour | None, number: int) -> None:
    instance = Instance(service, colour, number)

    assert parse_instance(instance.name) == instance
    if colour is not None:
        assert member_instance(service, instance.member, colour) == instance
        assert len(instance.name) <= 42, "a control socket's path is checked for names of this length"


@pytest.mark.parametrize("name", ["", "echo", "echo-blue", "echo-red-1", "blue-1", "echo-blue-x", "echo-blue-٣"])
def test_what_is_no_instance(name: str) -> None:
    assert parse_instance(name) is None


def test_no_service_can_be_mistaken_for_anothers_instance_or_chain() -> None:
    assert [name_problem(name) for name in ("echo", "kv-cache", "a1", "blue-1", "a" * 31)] == [None] * 5
    bad = ["", "Echo", "1st", "-a", "a_b", "a.b", "a b", "ä", "a" * 32, "service-a", "x-blue-1", "x-green-22"]
    assert all(name_problem(name) for name in bad)


def test_no_services_files_are_the_fleets_own() -> None:
    assert PATHS.operation_lock("table") != PATHS.table_lock
    assert PATHS.operation_lock("echo") != PATHS.operation_lock("echo-x")


@given(st.text())
def test_expand_leaves_all_but_placeholders_alone(text: str) -> None:
    values = dict.fromkeys(placeholders([text]), "x")
    assert expand(text, values) == text or values


def test_expand() -> None:
    assert expand('{"a": {port}} {instance}', {"port": "7100", "instance": "e-1"}) == '{"a": 7100} e-1'
    assert placeholders(["{port} {X} {}", "{a_b}"]) == {"port", "a_b"}
    assert placeholders(["{{port}} {{x}}"]) == set()
    assert expand("{{message}} {{port}} {port}", {"port": "1"}) == "{message} {port} 1"
    assert expand("{port}", {"port": "{release}", "release": "no"}) == "{release}", "values are not expanded again"


@pytest.mark.parametrize("text", ["fe80::1%x ; y", "fe80::1%eth0/128", "fe80::%1/64"])
def test_an_address_with_a_scope_is_no_source_to_pin(text: str) -> None:
    with pytest.raises(PortfleetError, match=r"a scope \(%\)") as caught:
        parse_network(text)
    assert caught.value.code is Exit.USAGE and caught.value.hint


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("198.18.0.7", "198.18.0.7", None),
        ("198.18.0.7:40000", "198.18.0.7", 40000),
        ("2001:db8::7", "2001:db8::7", None),
        ("[2001:db8::7]", "2001:db8::7", None),
        ("[2001:db8::7]:40000", "2001:db8::7", 40000),
    ],
)
def test_clients_addresses(text: str, address: str, port: int | None) -> None:
    assert parse_client(text) == (ipaddress.ip_address(address), port)


WRONG = [
    "",
    "x",
    "198.18.0",
    "198.18.0.7:",
    "198.18.0.7:65536",
    "[::1",
    "[198.18.0.7]:1:2",
    "fe80::1%a",
    "[fe80::1%a]:1",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_clients_address(text: str) -> None:
    with pytest.raises(PortfleetError) as caught:
        parse_client(text)
    assert caught.value.code is Exit.USAGE and caught.value.hint


def test_clients_of_one_prefix_share_a_slot() -> None:
    by24 = Affinity("source", 24, 56)
    slots = [
        {slot_for(by24, ipaddress.ip_address(text), None, seed=1, slots=4096) for text in texts}
        for texts in (["10.0.0.1", "10.0.0.200"], ["2001:db8::1", "2001:db8:0:ff::1"], ["10.0.1.1"])
    ]
    assert [len(found) for found in slots] == [1, 1, 1] and len(set.union(*slots)) == 3


def test_by_connection_the_port_counts() -> None:
    address = ipaddress.ip_address("198.18.0.7")
    slot = slot_for(Affinity("connection"), address, 40000, seed=1, slots=4096)
    assert slot == slot_of(address.packed + (40000).to_bytes(2, "big") + bytes(2), seed=1, slots=4096)
    with pytest.raises(ValueError, match="port counts"):
        slot_for(Affinity("connection"), address, None, seed=1, slots=4096)
    assert slot_for(Affinity("random"), address, None, seed=1, slots=4096) is None


def test_expressions_say_the_mask_only_where_there_is_one() -> None:
    assert expressions(Affinity("source"), seed=0x5EED, slots=4096) == (
        "jhash ip saddr mod 4096 seed 0x5eed",
        "jhash ip6 saddr & ffff:ffff:ffff:ffff:: mod 4096 seed 0x5eed",
    )
    assert expressions(Affinity("source", 24, 128), seed=1, slots=256) == (
        "jhash ip saddr & 255.255.255.0 mod 256 seed 0x1",
        "jhash ip6 saddr mod 256 seed 0x1",
    )
