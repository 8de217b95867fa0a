"""A specific listen address that is not on this box: packets to it are merely routed, and this box's clients go out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.plane import ECHO, HERE, Plane, plane

VIP4, VIP6 = "203.0.113.77", "2001:db8:2::77"
TEXT = ECHO.replace('":7000"', f'"{VIP4}:7000", "[{VIP6}]:7000"')
_ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), 3) as one:
    one.sendall(b"who\\n")
    print(one.makefile().readline().split()[0])
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Plane]:
    """Return a backup, the host, which routes between the clients and the master, the other box."""
    with plane(tmp_path / "rules.json", other=True) as made:
        host, other = made.boxes.host, made.boxes.other
        assert other is not None
        host.sysctl("net.ipv4.ip_forward", "1")
        host.sysctl("net.ipv6.conf.all.forwarding", "1")
        made.boxes.clients.net("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.1")
        made.boxes.clients.net("ip", "-6", "route", "add", "2001:db8:2::/64", "via", "2001:db8::1")
        move(made, "other")
        server = other.popen("/usr/bin/python3", str(HERE / "answerer.py"), "the-master:7000")
        assert server.stdout is not None and server.stdout.readline()
        try:
            yield made
        finally:
            server.kill()
            server.wait()


def move(pair: Plane, to: str) -> None:
    """Have the addresses on one of the two boxes."""
    boxes = {"host": pair.boxes.host, "other": pair.boxes.other}
    for name, box in boxes.items():
        assert box is not None
        device = "to-other" if name == "host" else "to-host"
        for address in (f"{VIP4}/32", f"{VIP6}/128"):
            box.run("ip", "addr", "del", address, "dev", device, check=False)
            if name == to:
                box.net("ip", "addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        for address in (VIP4, VIP6):  # as a gratuitous ARP would
            box.run("ip", "neigh", "flush", "to", address, check=False)


def who(pair: Plane, address: str, *, inside: bool = False) -> str:
    box = pair.boxes.host if inside else pair.boxes.clients
    return box.run("python3", "-c", _ASK, address).stdout.strip()


@pytest.mark.long
def test_a_backup_routes_and_serves_when_the_address_comes(pair: Plane) -> None:
    pair.load(TEXT)
    pair.serve()
    for address in (VIP4, VIP6):
        assert who(pair, address) == "the-master"
        assert who(pair, address, inside=True) == "the-master"
    move(pair, "host")
    for address in (VIP4, VIP6):
        assert who(pair, address).startswith("echo-blue-")
        assert who(pair, address, inside=True).startswith("echo-blue-")
    move(pair, "other")
    assert {who(pair, VIP4), who(pair, VIP6)} == {"the-master"}
