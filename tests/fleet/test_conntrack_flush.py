"""A fleet whose box empties conntrack, as failover scripts do: after a cutover, during a drain, without a watcher."""

from __future__ import annotations

import socket

import pytest

from support.fleet_box import FleetBox
from support.held import dialled, hear, talk
from support.operated import operated
from support.plane import close
from support.sandbox import HOST4, HOST6, client4, client6, wait_for
from support.watched import events, pid_of, signal, wait_event

FOUR = [client4(number) for number in range(150)]
SIX = [client6(number) for number in range(50)]


def flush(box: FleetBox) -> None:
    box.boxes.host.run("conntrack", "-F")


def all_stay(held: list[socket.socket]) -> list[str]:
    """Have all 200 talk; return who answered."""
    after = talk(held)
    print(f"{len(after.who)} of {len(held)} stay, the longest pause is {after.longest:.3f} s")
    assert not after.wrong and len(after.who) == 200
    return after.who


def test_after_a_cutover_and_while_an_instance_drains() -> None:
    with operated() as box:
        clients = box.boxes.clients
        with dialled(clients, (HOST4, 7000), FOUR) as four, dialled(clients, (HOST6, 7000), SIX) as six:
            held = four + six
            all_stay(held)
            box.portfleet("cutover", "echo", "--release", "v2")
            flush(box)
            assert {who.rpartition("/")[2] for who in all_stay(held)} == {"v2"}
            box.portfleet("drain", "echo/echo-green-1", "--no-wait")
            flush(box)
            who = all_stay(held)
            assert {name.partition("/")[0] for name in who} == {"echo-green-1", "echo-green-2"}
            found = events(box, "connections-restored")
            assert [one.fields["gone"] for one in found] == ["0"] * len(found) and "refused" not in found[-1].fields


@pytest.mark.long
def test_a_watcher_that_is_killed_in_the_middle_does_not_matter() -> None:
    with operated() as box:
        clients = box.boxes.clients
        with dialled(clients, (HOST4, 7000), FOUR) as four, dialled(clients, (HOST6, 7000), SIX) as six:
            held = four + six
            box.portfleet("cutover", "echo", "--release", "v2")
            known = events(box, "watching")[-1]
            signal(box, pid_of(box, "portfleet-watch"), "KILL")
            flush(box)
            sent = talk(held, seconds=0.05)
            wait_event(box, "watching", after=known, count=2)
            after = hear(held, seconds=20)
            print(f"{len(sent.wrong)} waited for a watcher, the longest for {after.longest:.3f} s")
            assert sent.wrong and not after.wrong


@pytest.mark.long
def test_other_services_of_the_box_are_left_alone() -> None:
    """A plain daemon beside the fleet, on a port of its own."""
    with operated() as box:
        host = box.boxes.host
        plain = host.popen("/usr/bin/python3", "-m", "http.server", "9000", "--bind", "::")
        wait_for("it listens", lambda: "9000" in host.run("ss", "-Hltn").stdout)
        with dialled(box.boxes.clients, (HOST4, 9000)) as held:
            flush(box)
            held[0].sendall(b"GET /no HTTP/1.0\r\n\r\n")
            assert held[0].recv(100).startswith(b"HTTP/1.0 404")
        close(plain)
