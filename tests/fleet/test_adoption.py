"""A port that a daemon serves already is taken over, and given back: the daemon's clients notice nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.fleet_box import FleetBox, fleet_box
from support.held import dialled
from support.plane import close
from support.sandbox import HOST4, HOST6, client4, client6, wait_for

FLEET = """
[service.kv]
listen = [":7000"]
command = ["redis-server", "--port", "{port}", "--save", "", "--protected-mode", "no"]
ports = "7100-7107"
instances = 2
[service.kv.probe]
send = "PING\\r\\n"
expect = "PONG"
"""
TRACKING = """
table inet theirs {
  chain input {
    type filter hook input priority 0; policy accept
    ct state established accept
  }
}
"""


@contextmanager
def old_redis(box: FleetBox, *bind: str) -> Iterator[None]:
    host = box.boxes.host
    words = ["--port", "7000", "--save", "", "--protected-mode", "no", *bind]
    redis = host.popen("redis-server", *words)
    try:
        wait_for("redis listens", lambda: ":7000" in host.run("ss", "-Hltn").stdout)
        yield
    finally:
        close(redis)


def port_of(connection: socket.socket) -> int:
    """Return the port of the redis that a connection goes to, by its own answer."""
    connection.settimeout(5)
    connection.sendall(b"CONFIG GET port\r\n")
    got = b""
    while got.count(b"\r\n") < 5:
        part = connection.recv(4096)
        assert part, "closed"
        got += part
    return int(got.split(b"\r\n")[4])


@pytest.mark.long
@pytest.mark.parametrize("tracking", ["", TRACKING], ids=["no conntrack in use", "conntrack in use"])
def test_its_clients_stay_while_the_fleet_comes_and_goes(tracking: str) -> None:
    with fleet_box() as box, old_redis(box):
        host, clients = box.boxes.host, box.boxes.clients
        if tracking:
            host.run("nft", "-f", "-", text=tracking)
        with (
            dialled(clients, (HOST4, 7000), [client4(number) for number in range(60)]) as four,
            dialled(clients, (HOST6, 7000), [client6(number) for number in range(30)]) as six,
            dialled(host, ("127.0.0.1", 7000), [""] * 10) as local,
        ):
            held = four + six + local
            assert {port_of(one) for one in held} == {7000}
            box.write(FLEET)
            words = "redis-server (pid "
            said = box.portfleet("check").stdout
            assert words in said and ") listens on :7000 with 100 connections" in said, said
            assert words in box.portfleet("plan").stdout
            up = box.portfleet("up")
            assert words in up.stdout + up.stderr and "new connections will go to the fleet" in up.stdout + up.stderr
            assert [port_of(one) for one in held] == [7000] * 100
            assert words not in box.portfleet("plan").stdout
            host.run("conntrack", "-F")
            assert [port_of(one) for one in held] == [7000] * 100
            for source in ([client4(200)], [client4(201)]):
                with dialled(clients, (HOST4, 7000), source) as new:
                    assert port_of(new[0]) in (7100, 7101)
            box.portfleet("down", "--yes")
            assert [port_of(one) for one in held] == [7000] * 100
            with dialled(clients, (HOST4, 7000), [client4(202)]) as new:
                assert port_of(new[0]) == 7000
