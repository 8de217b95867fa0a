"""Who answers is who `explain` computes, for every way a connection can find its slot, in both families."""

from __future__ import annotations

from collections import Counter

import pytest

from support.plane import ECHO, Plane, address_of, explained
from support.sandbox import client4, client6

#: Clients of each family.
MANY = 320
SOURCES = [client4(number * 409) for number in range(MANY)] + [client6(number * 204) for number in range(MANY)]


def ready(rules: Plane, affinity: str) -> None:
    rules.load(ECHO + f'affinity = "{affinity}"\n')
    rules.serve()


@pytest.mark.long
@pytest.mark.parametrize("affinity", ["source", "source/24", "source/16/48", "source/32/128", "connection"])
def test_packets_and_computation_agree(rules: Plane, affinity: str) -> None:
    ready(rules, affinity)
    reports = rules.ask(SOURCES)
    met = [report["reply"] and report["reply"].split()[0] for report in reports]

    assert met == explained(rules, "echo", reports)
    for six in (False, True):
        some = [who for who, report in zip(met, reports, strict=True) if (":" in report["source"]) == six]
        assert len(some) == MANY
        if affinity != "source/16/48":  # two networks of 16 bits, one of 48: two slots at most, and one
            assert Counter(some).keys() == {f"echo-blue-{number}" for number in range(1, 5)}


def test_by_connection_one_client_meets_many(rules: Plane) -> None:
    ready(rules, "connection")
    sources = [[address, 20000 + number] for address in (client4(7), client6(7)) for number in range(100)]
    reports = rules.ask(sources)
    met = [report["reply"].split()[0] for report in reports]

    assert met == explained(rules, "echo", reports)
    for address in (client4(7), client6(7)):
        some = {who for who, report in zip(met, reports, strict=True) if address_of(report["source"]) == address}
        assert len(some) == 4


def test_one_network_meets_one_instance(rules: Plane) -> None:
    ready(rules, "source/24/56")
    four = [f"198.18.9.{last}" for last in range(1, 101)]
    six = [f"2001:db8:1:3{last:02x}::7" for last in range(100)]
    assert len(set(rules.met(four).values())) == 1
    assert len(set(rules.met(six).values())) == 1


@pytest.mark.long
def test_round_robin_goes_through_the_slots_in_turn(rules: Plane) -> None:
    ready(rules, "round-robin")
    # One after the other: each takes the next slot, and in 4,096 of them each instance comes every fourth time or so.
    met = Counter(rules.met(SOURCES[:128] + SOURCES[-128:], parallel=1).values())
    slots = rules.kernel.read_slots("echo")
    assert met == Counter(slots[:256])


def test_at_random_everybody_gets_some(rules: Plane) -> None:
    ready(rules, "random")
    met = Counter(rules.met(SOURCES).values())
    # 640 fair throws of four: less than 100 or more than 220 has a chance below one in 10^7 (mean 160, deviation 11).
    assert set(met) == {f"echo-blue-{number}" for number in range(1, 5)}
    assert all(100 < count < 220 for count in met.values()), met


def test_clients_on_this_box_are_spread_too(rules: Plane) -> None:
    ready(rules, "connection")
    program = """
import socket
for host in ("127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"):
    for _ in range(40):
        with socket.create_connection((host, 7000), timeout=5) as connection:
            connection.sendall(b"x\\n")
            print(host, connection.recv(100).split()[0].decode())
"""
    lines = rules.boxes.host.run("/usr/bin/python3", "-c", program).stdout.splitlines()
    met = Counter(line.split()[0] for line in lines)
    assert met == dict.fromkeys(("127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"), 40)
    assert len({line.split()[1] for line in lines}) == 4
