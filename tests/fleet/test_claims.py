"""Two claimants of a port, and our tables in a saved ruleset: noticed while it can still be undone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.fleet_box import FleetBox, fleet_box
from support.sandbox import client4, client6, wait_for
from support.watched import NAMED, QUICK, load, wait_event

_BIND = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
one = socket.socket(family)
if sys.argv[3] == "reuse":
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if family == socket.AF_INET6:
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
one.bind((sys.argv[1], int(sys.argv[2])))
one.listen()
print("up", flush=True)
sys.stdin.read()
"""
ADDRESSES = ("0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "2001:db8::1")


def can_bind(box: FleetBox, address: str, how: str, port: int = 7000) -> bool:
    done = box.boxes.host.run("python3", "-c", _BIND, address, str(port), how, check=False)
    assert done.returncode == 0 or "Address already in use" in done.stderr, done.stderr
    return done.returncode == 0


@contextmanager
def listening(box: FleetBox, address: str) -> Iterator[subprocess.Popen[str]]:
    process = box.boxes.host.popen("python3", "-c", _BIND, address, "7000", "reuse")
    try:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        yield process
    finally:
        process.communicate()


def warnings(box: FleetBox) -> dict[str, dict[str, str]]:
    found = json.loads(box.portfleet("status", "--json").stdout)["warnings"]
    return {one["name"]: one for one in found if one["name"].startswith(("port:", "translation:", "saved:"))}


def served(box: FleetBox) -> None:
    box.who([client4(1), client6(1)])


@pytest.mark.long
@pytest.mark.parametrize("how", ["reuse", "plain"])
def test_the_port_that_clients_dial_is_taken(how: str) -> None:
    text = NAMED.replace('":7000"', '":7000", "203.0.113.9:7003"')  # the second is not on this box yet
    with fleet_box(text) as box:
        box.calm()
        assert not any(can_bind(box, address, how) for address in ADDRESSES)
        assert can_bind(box, "127.0.0.1", how, 7003)
        box.boxes.host.net("ip", "addr", "add", "203.0.113.9/32", "dev", "lo")
        assert not can_bind(box, "203.0.113.9", how, 7003)
        served(box)
        assert ":7000" not in box.boxes.host.run("ss", "-tlnH").stdout
        assert warnings(box) == {}

        box.portfleet("down", "echo")
        assert all(can_bind(box, address, how) for address in ADDRESSES), "whoever had it may have it back at once"
        box.portfleet("up")
        wait_for("it is taken again", lambda: not can_bind(box, "0.0.0.0", how))
        box.portfleet("down", "--yes")
        assert all(can_bind(box, address, how) for address in ADDRESSES)


def test_a_daemon_that_was_there_before_stays_and_is_named() -> None:
    with fleet_box() as box:
        box.write(NAMED)
        with listening(box, "0.0.0.0"):
            box.portfleet("up")
            served(box)
            told = wait_event(box, "warning", about="port::7000").fields
            assert told["reason"].startswith("python3 (pid ") and "listens on 0.0.0.0:7000" in told["reason"]
            assert "listens on 0.0.0.0:7000" in box.portfleet("status").stdout
        wait_event(box, "warning-over", about="port::7000")
        assert not can_bind(box, "0.0.0.0", "reuse")


DNAT = """
table ip nat {
  chain prerouting {
    type nat hook prerouting priority -110
    tcp dport 7000 counter dnat to 192.0.2.77:80
    tcp dport 7001 counter dnat to 192.0.2.77:80
  }
}
"""


@pytest.mark.long
def test_a_foreign_translation_of_the_port_is_told_of() -> None:
    with fleet_box(NAMED) as box:
        box.calm()
        box.boxes.host.run("nft", "-f", "-", text=DNAT)
        told = wait_event(box, "warning").fields
        assert (
            "`tcp dport 7000 counter dnat to 192.0.2.77:80` in ip nat prerouting leads clients of :7000"
            in told["reason"]
        )
        assert list(warnings(box)) == [told["about"]]
        box.boxes.host.run("sh", "-ec", told["hint"].partition(";")[0])
        wait_event(box, "warning-over", about=told["about"])
        served(box)


@pytest.mark.long
def test_our_tables_in_a_saved_ruleset_are_told_of_at_once() -> None:
    own = "table inet site {\n chain input {\n type filter hook input priority 0\n tcp dport 9000 drop\n }\n}"
    with fleet_box(NAMED + QUICK) as box:
        host = box.boxes.host
        own_etc = "cp -dR /etc /run 2>/dev/null || :"  # but for what only the machine's root may read
        host.run("sh", "-ec", f"{own_etc}; mount --bind /run/etc /etc && echo > /etc/nftables.conf")
        host.run("nft", "-f", "-", text=own)
        box.calm()
        save = "(echo flush ruleset; nft list ruleset)"
        with load(box, held=20, connects=0):
            host.run("sh", "-ec", f"{save} > /etc/nftables.conf")
            told = wait_event(box, "warning", about="saved:/etc/nftables.conf", seconds=5).fields
            assert "holds tables of portfleet" in told["reason"]
            assert "hint: sed -i" in box.portfleet("status").stdout
            findings = json.loads(box.portfleet("doctor", "--json", check=False).stdout)["findings"]
            (found,) = (one for one in findings if one["about"] == "/etc/nftables.conf")
            assert (found["severity"], found["mend"]) == ("broken", told["hint"])
            assert "Operation not permitted" in host.run("nft", "-f", "/etc/nftables.conf", check=False).stderr

            host.run("sh", "-ec", told["hint"])
            wait_event(box, "warning-over", about="saved:/etc/nftables.conf")
            text = host.run("cat", "/etc/nftables.conf").stdout
            assert "tcp dport 9000 drop" in text and "portfleet" not in text
            host.run("nft", "-f", "/etc/nftables.conf")
            box.settled()
        included = f"{save} | sed '1d' > /etc/ours.nft; echo 'include \"/etc/ours.nft\"' > /etc/nftables.conf"
        host.run("sh", "-ec", included)
        wait_event(box, "warning", about="saved:/etc/ours.nft", seconds=5)
        host.run("sh", "-ec", rf"{save} | sed '/^table inet portfleet\(-keeper\)\? {{/,/^}}/d' > /etc/ours.nft")
        wait_event(box, "warning-over", about="saved:/etc/ours.nft", seconds=5)
