"""A flood of SYNs: half-open connections neither shut an instance with a limit nor make probes worthless."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from portfleet.dataplane.interface import Room
from portfleet.dataplane.nft.connections import NftConnections
from support import fill_conntrack
from support.flood import prepare, syns
from support.guarded import guarded
from support.held import dialled, talk
from support.plane import Plane, close
from support.sandbox import HOST4, client4, wait_for

REDIS = """
[service.echo]
listen = [":7000"]
command = ["redis-server", "--port", "{port}"]
ports = "7100-7101"
instances = 1
max_connections = 100
"""
TO = (HOST4, 7000)
FILL = Path(str(fill_conntrack.__file__))


@pytest.mark.parametrize("extra", ["", 'overflow = "refuse"\n'])
def test_a_limit_counts_who_is_established(rules: Plane, extra: str) -> None:
    rules.load(REDIS + extra)
    rules.serve()
    prepare(rules.boxes)
    real = [client4(number) for number in range(10)]
    with guarded(rules) as guard, dialled(rules.boxes.clients, TO, real) as held:
        syns(rules.boxes, TO, 400)
        began = time.monotonic()
        wait_for("it is opened", lambda: guard.done, seconds=1)
        met = rules.met([client4(number) for number in range(20, 40)], timeout=3)
        print(f"all in after {time.monotonic() - began:.2f} s", guard.done)
        assert set(met.values()) == {"echo-blue-1"}
        assert not talk(held).wrong
        syns(rules.boxes, TO, 400, first=400)
        assert set(rules.met([client4(number) for number in range(40, 60)], timeout=3).values()) == {"echo-blue-1"}


@pytest.mark.long
def test_and_is_still_a_limit(rules: Plane) -> None:
    rules.load(REDIS)
    rules.serve()
    prepare(rules.boxes)
    with guarded(rules) as guard:
        syns(rules.boxes, TO, 400)
        wait_for("it is opened", lambda: guard.done)
        with dialled(rules.boxes.clients, TO, [client4(number) for number in range(90)]) as held:
            inside = rules.ask([client4(number) for number in range(100, 200)], message="x\n", timeout=2)
            assert not talk(held).wrong  # those that asked have gone again
            assert any(one["reply"] for one in inside)
            # It was full with them, perhaps, when it was counted last.
            wait_for("it is open again", lambda: rules.ask([client4(200)], message="x\n")[0]["reply"])
            with dialled(rules.boxes.clients, TO, [client4(number) for number in range(200, 210)]):
                time.sleep(0.5)  # for the next count
                late = rules.ask([client4(number) for number in range(300, 340)], timeout=0.5)
                assert not any(one["reply"] for one in late), late


def filled(connections: NftConnections, share: float) -> Room:
    """Wait until so much of conntrack's table is used."""

    def there() -> Room | None:
        room = connections.room()
        return room if room is not None and room.used >= share * room.limit else None

    return wait_for("the table is full", there, seconds=60)


@pytest.mark.long
def test_a_full_table_that_makes_room_is_no_reason_to_distrust_probes(rules: Plane) -> None:
    rules.load(REDIS)
    rules.serve()
    connections = rules.kernel.connections
    assert connections.full() == ""
    fill = rules.boxes.host.popen("/usr/bin/python3", str(FILL), "3", "--half-open")
    before = filled(connections, 0.98).dropped
    assert set(rules.met([client4(number) for number in range(20)]).values()) == {"echo-blue-1"}
    assert filled(connections, 0.9).dropped == before and connections.full() == ""
    close(fill)


@pytest.mark.long
def test_a_full_table_that_drops_is(rules: Plane) -> None:
    rules.load(REDIS)
    rules.serve()
    connections = rules.kernel.connections
    assert connections.full() == ""
    fill = rules.boxes.host.popen("/usr/bin/python3", str(FILL), "8")
    filled(connections, 1)
    rules.ask([client4(number) for number in range(20)], timeout=0.5)
    assert "new connections are dropped" in connections.full()
    close(fill)
