"""Instances of daemons without a hand-off take so many connections and no more.

What is over that goes to another, or is refused. The kernel counts a connection until it has collected its end: with
each new one it looks at up to eight that may have ended.
"""

from __future__ import annotations

from support.plane import Plane, explained, load
from support.sandbox import client4

REDIS = """
[service.echo]
listen = [":7000"]
command = ["redis-server", "--port", "{port}"]
ports = "7100-7115"
instances = 3
max_connections = 20
"""
ALL = ("echo-blue-1", "echo-blue-2", "echo-blue-3")
CLIENTS = [client4(number * 409) for number in range(100)]


def homes(rules: Plane) -> dict[str, list[str]]:
    """Return the clients of each instance by their slots, by computation: nobody has connected yet."""
    found = explained(rules, "echo", [{"source": client, "port": 0} for client in CLIENTS])
    return {name: [c for c, who in zip(CLIENTS, found, strict=True) if who == name] for name in ALL}


def test_what_one_cannot_take_another_does(rules: Plane) -> None:
    rules.load(REDIS)
    rules.serve()
    of = homes(rules)["echo-blue-1"]
    assert len(of) > 25
    with load(rules, of[:30]) as clients:
        pass
    counts = clients.seen
    assert counts["echo-blue-1"] == 20
    assert counts["echo-blue-2"] + counts["echo-blue-3"] == 10


def test_when_all_are_full_the_next_is_refused(rules: Plane) -> None:
    rules.load(REDIS)
    rules.serve()
    with load(rules, CLIENTS[:60]) as clients:
        more = rules.ask(CLIENTS[60:70], timeout=3)
        assert all("ConnectionRefused" in one["error"] for one in more), more
    assert clients.seen == dict.fromkeys(ALL, 20)


def test_refused_where_that_is_asked(rules: Plane) -> None:
    rules.load(REDIS + 'overflow = "refuse"\n')
    rules.serve()
    mine = homes(rules)["echo-blue-2"]
    with load(rules, mine[:20]) as clients:
        more = rules.ask(mine[20:25], timeout=3)
        assert all("ConnectionRefused" in one["error"] for one in more), more
        others = homes(rules)["echo-blue-1"][:20] + homes(rules)["echo-blue-3"][:20]
        assert set(rules.met(others).values()) == {"echo-blue-1", "echo-blue-3"}
    assert clients.seen == {"echo-blue-2": 20}


def test_an_ended_connection_makes_room(rules: Plane) -> None:
    rules.load(REDIS)
    rules.serve()
    mine = homes(rules)["echo-blue-3"]
    for _ in range(3):
        with load(rules, mine[:20]) as clients:
            pass
        assert clients.seen == {"echo-blue-3": 20}


def test_who_is_out_gets_no_overflow(rules: Plane) -> None:
    rules.load(REDIS)
    rules.serve()
    of = homes(rules)["echo-blue-1"]
    rules.signal("echo-blue-2", "KILL")
    rules.point(["echo-blue-2"])
    with load(rules, of[:30]) as clients:
        pass
    assert clients.seen == {"echo-blue-1": 20, "echo-blue-3": 10}


def test_without_a_limit_again_nothing_of_it_is_left(rules: Plane) -> None:
    rules.load(REDIS)
    rules.load(REDIS.replace("max_connections = 20", ""))
    assert rules.is_as_wanted()
    listing = rules.boxes.host.run("nft", "list", "ruleset").stdout
    assert not any(word in listing for word in ("counts", "try_", "overflow"))
