"""The keeper: others' flushes cost no established connection, and new ones wait for the repair."""

from __future__ import annotations

import time

import pytest

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Listen
from portfleet.dataplane.interface import Door
from portfleet.dataplane.nft.events import RulesWatch
from portfleet.dataplane.nft.keeper import Keeper
from support.plane import ECHO, Plane, load
from support.sandbox import HOST6, client4, client6

#: What others do: nftables.service does the second when it is restarted.
FLUSHES = {
    "flush": "flush ruleset",
    "restart": "flush ruleset; add table inet f; add chain inet f input { type filter hook input priority 0; }",
    "delete": "delete table inet portfleet",
}


def doors(rules: Plane) -> tuple[Door, ...]:
    service = rules.want.service
    return (Door(service.listen, service.ports),)


def tables(rules: Plane) -> list[str]:
    return rules.boxes.host.run("nft", "list", "tables").stdout.splitlines()


def survive(rules: Plane, flush: str, *, held: int, interval: float, host: str = "") -> None:
    """Lose the table under load, be without it for a second, put it back; no client may lose or be refused anything."""
    rules.load()
    rules.serve()
    keeper, watch = Keeper(), RulesWatch()
    keeper.ensure(doors(rules))
    watch.read()
    client = client6 if host else client4
    sources = [client(number * 13 % 60_000) for number in range(held)]
    job = {"host": host} if host else {}
    with load(rules, sources, connects=50, interval=interval, timeout=10, **job) as clients:
        rules.boxes.host.run("nft", flush)
        changes = watch.read()
        assert any("portfleet" in change.deleted and change.process == "nft" for change in changes), changes
        assert not any("portfleet-keeper" in change.deleted for change in changes)
        time.sleep(1)  # how late the repair is, not a wait for anything
        rules.load()
        time.sleep(max(2.0, interval))  # for every held connection to have asked after it
    keeper.close()
    watch.close()
    connects = clients.report["connects"]
    print(f"{held} held, {connects['done']} connects, slowest {connects['slowest']:.2f} s")
    assert clients.lost == [] and len(clients.report["held"]) == held
    assert min(one["replies"] for one in clients.report["held"]) > 0
    assert connects["refused"] == connects["reset"] == 0, connects
    assert connects["slowest"] > 0.5  # some came while there was no table


@pytest.mark.parametrize("flush", FLUSHES)
def test_a_foreign_flush_costs_nothing(rules: Plane, flush: str) -> None:
    survive(rules, FLUSHES[flush], held=300, interval=0.3)


def test_nor_does_it_by_ipv6(rules: Plane) -> None:
    survive(rules, FLUSHES["flush"], held=300, interval=0.3, host=HOST6)


@pytest.mark.long
def test_five_thousand_connections_go_on(rules: Plane) -> None:
    survive(rules, FLUSHES["flush"], held=5000, interval=4.0)


def test_without_a_keeper_they_would_all_be_reset(rules: Plane) -> None:
    """What the keeper is for: if this fails, the kernel does better by itself."""
    rules.load()
    rules.serve()
    with load(rules, [client4(number) for number in range(20)], interval=0.1) as clients:
        rules.boxes.host.run("nft", "flush", "ruleset")
        time.sleep(1)
    assert len(clients.lost) == 20


def test_only_its_owner_can_touch_it_and_a_second_is_told_so(rules: Plane) -> None:
    rules.load(ECHO)
    keeper = Keeper()
    keeper.ensure(doors(rules))
    with pytest.raises(PortfleetError, match="a watcher is already running") as caught:
        Keeper().ensure(doors(rules))
    assert caught.value.code is Exit.LOCKED
    done = rules.boxes.host.run("nft", "delete", "table", "inet", "portfleet-keeper", check=False)
    assert done.returncode and "Operation not permitted" in done.stderr
    keeper.ensure(
        (Door((Listen(80, "192.0.2.1", (4,)), Listen(81, "2001:db8::1", (6,)), Listen(82, None, (4, 6))), (90, 99)),)
    )
    text = rules.boxes.host.run("nft", "list", "table", "inet", "portfleet-keeper").stdout
    assert "192.0.2.1 . 80" in text and "2001:db8::1 . 81" in text and "7000" not in text and text.count("82") == 2
    keeper.close()
    assert tables(rules) == ["table inet portfleet"]
    second = Keeper()
    second.ensure(doors(rules))
    assert "table inet portfleet-keeper" in tables(rules)
    del second, keeper
