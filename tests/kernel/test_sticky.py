"""Sticky clients: they stay where they are while slots move, leave whom is drained, and stay where they went."""

from __future__ import annotations

from collections import Counter

import pytest

from support.plane import ECHO, Plane
from support.sandbox import client4, client6, wait_for

CLIENTS = [client4(number * 409) for number in range(100)] + [client6(number * 204) for number in range(100)]
STICKY = ECHO + 'sticky = "1h"\nsticky_size = 5000\n'


def ready(rules: Plane, text: str = STICKY) -> dict[str, str | None]:
    """Load and meet every client once."""
    rules.load(text)
    rules.serve()
    met = rules.met(CLIENTS)
    assert None not in met.values()
    return met


def test_clients_stay_where_they_are_when_slots_move(rules: Plane) -> None:
    before = ready(rules)
    rules.load(STICKY.replace("instances = 4", "instances = 6"))
    rules.serve(names=["echo-blue-5", "echo-blue-6"])
    assert len(set(rules.kernel.read_slots("echo"))) == 6
    assert rules.met(CLIENTS) == before
    fresh = [client4(50_000 + number) for number in range(100)]
    assert {"echo-blue-5", "echo-blue-6"} <= set(rules.met(fresh).values())


@pytest.mark.parametrize("affinity", ["source", "source/24/56", "random"])
def test_drained_clients_move_and_stay_moved(rules: Plane, affinity: str) -> None:
    before = ready(rules, STICKY + f'affinity = "{affinity}"\n')
    rules.point(["echo-blue-2"])
    moved = rules.met(CLIENTS)
    assert "echo-blue-2" not in moved.values()
    assert {client for client in CLIENTS if moved[client] != before[client]} == {
        client for client in CLIENTS if before[client] == "echo-blue-2"
    }
    rules.point()
    assert "echo-blue-2" in rules.kernel.read_slots("echo")
    assert rules.met(CLIENTS) == moved  # back, but its former clients stay where they went
    assert rules.met(CLIENTS) == moved


def test_a_client_that_does_not_come_for_long_goes_home(rules: Plane) -> None:
    ready(rules, STICKY.replace('"1h"', '"2s"'))
    home = rules.kernel.read_slots("echo")
    rules.point(["echo-blue-2"])
    moved = rules.met(CLIENTS)
    rules.point()
    assert rules.kernel.read_slots("echo") == home

    def at_home() -> bool:
        listing = rules.boxes.host.run("nft", "list", "map", "inet", "portfleet", "sticky4-5000-echo").stdout
        return "elements" not in listing

    wait_for("the kernel has forgotten the clients", at_home)
    back = rules.met(CLIENTS)
    assert set(moved.values()) == {"echo-blue-1", "echo-blue-3", "echo-blue-4"}
    assert "echo-blue-2" in back.values()


@pytest.mark.long
def test_a_full_map_serves_on_by_the_slots(rules: Plane) -> None:
    ready(rules, STICKY.replace("sticky_size = 5000", "sticky_size = 1024"))
    many = [client4(number) for number in range(1500)]
    met = rules.met(many)
    assert None not in met.values()
    assert min(Counter(met.values()).values()) > 250
    assert rules.met(many) == met


def test_a_changed_time_or_size_or_none_at_all(rules: Plane) -> None:
    before = ready(rules)
    rules.load(STICKY.replace('"1h"', '"2h"'))
    rules.point(["echo-blue-2"])
    rules.point()
    moved = rules.met(CLIENTS)  # nobody came meanwhile, so all are where they were
    assert moved == before
    rules.load(STICKY.replace("5000", "6000"))
    assert rules.is_as_wanted()
    assert "sticky4-5000-echo" not in rules.boxes.host.run("nft", "list", "ruleset").stdout
    rules.load(ECHO)
    assert rules.is_as_wanted()
    listing = rules.boxes.host.run("nft", "list", "ruleset").stdout
    assert "sticky" not in listing and "taking" not in listing
    assert None not in rules.met(CLIENTS).values()


def test_an_ejected_and_its_clients_in_one_transaction(rules: Plane) -> None:
    """With its slots moved alone a sticky client would stay on the dead instance."""
    before = ready(rules)
    victims = [client for client in CLIENTS if before[client] == "echo-blue-3"]
    rules.signal("echo-blue-3", "KILL")
    rules.point(["echo-blue-3"])
    met = rules.met(victims, timeout=2)
    assert None not in met.values() and "echo-blue-3" not in met.values()
