"""`conntrack -F` costs no connection: whose it is, its socket says, and the entries are made again from the sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from portfleet.linux import sockdiag
from support.guarded import guarded
from support.held import dialled, hear, talk
from support.plane import ECHO, Load, Plane, load
from support.sandbox import HOST4, HOST6, client4, client6, wait_for

PORT = 7000
QUIET = """
table inet quiet {
  chain output {
    type filter hook output priority -300; policy accept
    tcp flags rst drop
  }
}
"""
TWO_PORTS = ECHO.replace('[":7000"]', '[":7000", ":7001"]')


def flush(rules: Plane) -> None:
    rules.boxes.host.run("conntrack", "-F")


def moved(rules: Plane) -> None:
    """Point every slot elsewhere, as a cutover or a drain does, so that the slots send nobody to where it is."""
    names = [want.name for want in rules.want.instances if want.instance.colour == "blue"]
    serving = rules.kernel.read_slots("echo")
    rules.point([name for name in names if name != "echo-blue-1"])
    assert rules.kernel.read_slots("echo") != serving


@contextmanager
def clients(rules: Plane, count: int = 25) -> Iterator[list[socket.socket]]:
    """Hold connections from outside and from this box, by both families; each has talked once."""
    four, six = [client4(number * 7) for number in range(count)], [client6(number * 7) for number in range(count)]
    with (
        dialled(rules.boxes.clients, (HOST4, PORT), four) as outside4,
        dialled(rules.boxes.clients, (HOST6, PORT), six) as outside6,
        dialled(rules.boxes.host, ("127.0.0.1", PORT), [""] * 5) as local4,
        dialled(rules.boxes.host, (HOST4, PORT), [""] * 5) as own4,
        dialled(rules.boxes.host, ("::1", PORT), [""] * 5) as local6,
        dialled(rules.boxes.host, ("127.0.0.1", 7101), [""] * 5) as direct,
    ):
        held = outside4 + outside6 + local4 + own4 + local6 + direct
        assert not talk(held).wrong
        yield held


@pytest.mark.parametrize("loose", ["0", "1"])
def test_all_connections_stay_whatever_the_slots_say_now(rules: Plane, loose: str) -> None:
    rules.boxes.host.sysctl("net.netfilter.nf_conntrack_tcp_loose", loose)
    rules.load(ECHO)
    rules.serve()
    with guarded(rules) as guard, clients(rules) as held:
        before = talk(held).who
        moved(rules)
        for _ in range(2):
            flush(rules)
            after = talk(held)
            print(f"longest {after.longest:.3f} s", guard.done[-1:])
            assert not after.wrong and after.who == before
    assert guard.restored >= 2 * 65  # those that dialled an instance itself conntrack may have found by itself


def test_a_kernel_that_does_not_tell_is_asked(rules: Plane) -> None:
    rules.load(ECHO)
    rules.serve()
    with guarded(rules, told=False) as guard, clients(rules) as held:
        before = talk(held).who
        moved(rules)
        for _ in range(2):
            flush(rules)
            after = talk(held)
            assert not after.wrong and after.who == before
    assert guard.restored >= 2 * 65


def test_a_server_that_speaks_first_is_heard(rules: Plane) -> None:
    rules.load(ECHO)
    rules.serve("--later", "0.5")
    with guarded(rules), clients(rules) as held:
        moved(rules)
        for connection in held:
            connection.send(b"x\n")
        time.sleep(0.2)  # the requests are there; the answers come after the flush
        flush(rules)
        after = hear(held)
        print(f"longest {after.longest:.3f} s")
        assert not after.wrong


def test_which_of_two_ports_was_dialled_its_packet_says(rules: Plane) -> None:
    rules.load(TWO_PORTS)
    rules.serve()
    sources = [client4(number) for number in range(20)]
    with (
        guarded(rules),
        dialled(rules.boxes.clients, (HOST4, 7000), sources) as first,
        dialled(rules.boxes.clients, (HOST4, 7001), sources) as second,
    ):
        assert not talk(first + second).wrong
        moved(rules)
        flush(rules)
        after = talk(first + second)
        print(f"longest {after.longest:.3f} s")
        assert not after.wrong


def test_packets_of_a_connection_that_nobody_has_are_reset(rules: Plane) -> None:
    rules.load(ECHO)
    rules.serve()
    with guarded(rules) as guard, clients(rules, count=5) as held:
        others = [connection for connection in held if connection.getpeername()[1] == PORT]
        rules.boxes.host.run("nft", "-f", "-", text=QUIET)  # their end is not told
        assert sum(sockdiag.destroy(sockdiag.of_port(port)) for port in range(7100, 7104)) >= len(others)
        rules.boxes.host.run("nft", "delete", "table", "inet", "quiet")
        flush(rules)
        after = talk(others, seconds=15)
        print(f"longest {after.longest:.3f} s", after.wrong, guard.done)
        assert all("ConnectionReset" in wrong for wrong in after.wrong.values()) and len(after.wrong) == len(others)


def test_without_a_watcher_nothing_is_reset_before_one_is_back(rules: Plane) -> None:
    rules.load(ECHO)
    rules.serve()
    with clients(rules) as held:
        with guarded(rules):
            pass
        moved(rules)
        flush(rules)
        silent = talk(held[:10], seconds=3)
        assert all(wrong.startswith("silent") for wrong in silent.wrong.values())
        with guarded(rules):
            assert not hear(held[:10]).wrong
            assert not talk(held[10:]).wrong


@pytest.mark.parametrize("loose", ["0", "1"])
def test_rules_and_conntrack_flushed_at_once(rules: Plane, loose: str) -> None:
    rules.boxes.host.sysctl("net.netfilter.nf_conntrack_tcp_loose", loose)
    rules.load(ECHO)
    rules.serve("--later", "0.5")
    with guarded(rules), clients(rules) as held:
        for connection in held:
            connection.send(b"x\n")
        rules.boxes.host.run("sh", "-c", "nft flush ruleset; conntrack -F")
        time.sleep(1)  # while there are no rules, servers speak and clients repeat their packets
        rules.load(ECHO)
        after = hear(held)
        print(f"longest {after.longest:.3f} s")
        assert not after.wrong


def _has_more(held: Load, before: int) -> bool:
    return held.so_far()["fewest"] > before


@pytest.mark.long
def test_five_thousand_talking_connections_over_three_flushes(rules: Plane) -> None:
    rules.load(ECHO)
    rules.serve()
    sources = [client4(number * 13) for number in range(5000)]
    with guarded(rules) as guard, load(rules, sources, interval=2.0, timeout=10) as held:
        moved(rules)
        for _ in range(3):
            flush(rules)
            before = held.so_far()["most"]
            wait_for("all have talked again", partial(_has_more, held, before))
    slowest = max(one["slowest"] for one in held.report["held"])
    print(f"{len(held.lost)} of 5,000 lost, longest pause {slowest:.3f} s", [one.fields for one in guard.done])
    assert held.lost == [] and slowest < 10
