"""An instance on another box: it gets its share once it answers, and while it does not everybody is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.fleet_box import FleetBox, fleet_box
from support.sandbox import HOST4, client4, wait_for
from support.watched import QUICK

_SUPPORT = Path(__file__).parents[1] / "support"
LOCAL = """
[service.echo]
listen = ["0.0.0.0:7000"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:whoami"]
ports = "7100-7107"
instances = 2
"""
REMOTE = LOCAL + 'remote = ["203.0.113.2:7101"]\n' + QUICK
NAME = "echo-remote-1"
_FROM_HERE = """
import socket, sys
for source in sys.argv[1:]:
    with socket.create_connection((source, 7000), timeout=5, source_address=(source, 0)) as connection:
        connection.sendall(b"who\\n")
        print(connection.recv(100).split()[0].decode())
"""
CLIENTS = [client4(number * 409) for number in range(60)]


def serve(box: FleetBox) -> subprocess.Popen[str]:
    """Have the other box answer; gives what started it."""
    assert box.boxes.other is not None
    server = box.boxes.other.popen("/usr/bin/python3", str(_SUPPORT / "answerer.py"), f"{NAME}:7101")
    assert server.stdout is not None and server.stdout.readline()
    return server


def state(box: FleetBox) -> tuple[str, int]:
    """Return the remote instance's state and slots by `status`."""
    found = box.status()[NAME]
    return found["state"], found["slots"]


@contextmanager
def held(box: FleetBox) -> Iterator[int]:
    """Hold a connection from each of CLIENTS; gives how many of them the remote instance has, by `explain`."""
    process = box.boxes.clients.popen(sys.executable, str(_SUPPORT / "clients.py"), "hold")
    assert process.stdin is not None and process.stdout is not None
    job = {"to": [HOST4, 7000], "sources": CLIENTS, "message": "x {id}\n", "interval": 0.2}
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "up\n"
        yield list(box.explain("echo", CLIENTS).values()).count(NAME)
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
def test_a_dead_one_is_told_gets_no_clients_and_is_let_in_when_it_answers() -> None:
    with fleet_box(LOCAL, other=True) as box:
        box.boxes.host.sysctl("net.ipv4.ip_forward", "1")
        box.write(REMOTE)
        for _ in range(2):
            said = box.portfleet("apply", check=False)
            assert said.returncode == 4, said
            assert "echo: 2 instances serving, 1 not:" in said.stdout
            assert f"  {NAME}: port 7101: Connection refused" in said.stdout and "see: portfleet status" in said.stdout
            assert state(box) == ("starting", 0)
        assert "has not answered the watcher's probes yet" in box.look().stdout
        assert set(box.who(CLIENTS).values()) == {"echo-blue-1", "echo-blue-2"}

        serve(box)
        wait_for("it has its share", lambda: state(box) == ("ready", 1365))
        said = box.portfleet("apply")
        assert "3 instances serving; already up to date" in said.stdout
        assert set(box.who(CLIENTS).values()) == {"echo-blue-1", "echo-blue-2", NAME}
        with held(box) as expected:
            assert box.status()[NAME]["connections"] == expected > 0

        own = [f"127.0.0.{number}" for number in range(1, 30)] + ["192.0.2.1", "203.0.113.1"]
        met = box.boxes.host.run("/usr/bin/python3", "-c", _FROM_HERE, *own).stdout.split()
        assert met == list(box.explain("echo", own).values())
        assert set(met) == {"echo-blue-1", "echo-blue-2"}
        assert "127.0.0.1: a client on this box: echo-blue-" in box.portfleet("explain", "echo", "127.0.0.1").stdout

        for words in (["echo/2"], ["echo/echo-blue-2"], ["echo-blue-2"], ["portfleet-watch"], ["supervisord"]):
            assert box.portfleet("logs", "-n", "5", *words).stdout, words
        for wrong in ("echo/0", "echo/12345678", f"echo/{NAME}", "nope/1", "kv"):
            assert box.portfleet("logs", wrong, check=False).returncode in (1, 2), wrong
