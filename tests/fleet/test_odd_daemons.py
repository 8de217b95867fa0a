"""Instances whose control sockets misbehave in every way: each harms itself, and nobody else notices."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box
from support.odd_daemon import WAYS
from support.reachable import show_checkout
from support.rights import needs_another_user
from support.sandbox import HOST4, wait_for
from support.watched import NAMED, QUICK, events, load, pid_of, signal, wait_event

_TESTS = Path(__file__).parents[1]
#: Its appearance makes the daemons misbehave.
_NOW = f"{HOME}/odd"


def odd(box: FleetBox, *ways: str, more: str = "") -> str:
    """Put the daemon into the box and return a service that has an instance for each of ``ways``."""
    script = f'#!/bin/sh\nshift\nexec {sys.executable} {_TESTS}/support/odd_daemon.py "$1" {_NOW} {" ".join(ways)}\n'
    path = f"{HOME}/own/portfleet-daemon"
    box.boxes.host.run("sh", "-c", f"mkdir -p {HOME}/own && cat > {path} && chmod 755 {path}", text=script)
    return f"""
[service.odd]
listen = [":7200"]
command = ["{path}", "--port", "{{port}}"]
ports = "7300-7359"
instances = {len(ways)}
start_timeout = "20s"
{more}
[service.odd.probe]
interval = "200ms"
timeout = "300ms"
"""


def verbs(box: FleetBox) -> None:
    """Have every verb that asks instances look at the fleet: none hangs, and none says anything that does not print."""
    for words in (("status",), ("status", "--json"), ("top", "-n", "1", "--every", "200ms"), ("plan",), ("doctor",)):
        began = time.monotonic()
        said = box.portfleet(*words, check=False)
        assert time.monotonic() - began < 5, words
        assert "Traceback" not in said.stderr and said.returncode in (0, 1, *range(6, 10)), said
        assert "\x1b" not in said.stdout + said.stderr and max(map(len, said.stdout.splitlines())) < 2000


@pytest.mark.long
def test_each_way_to_misbehave_harms_that_instance_alone() -> None:
    with fleet_box() as box:
        box.write(NAMED + QUICK + odd(box, *WAYS))
        box.portfleet("up")
        watcher = pid_of(box, "portfleet-watch")
        verbs(box)
        with load(box) as clients:
            box.boxes.host.run("touch", _NOW)
            wait_event(box, "ejected", count=len(WAYS) - 1)
            wait_event(box, "kept")  # the last one that serves
            verbs(box)
            for _ in range(3):
                pid, before = box.status()["echo-blue-1"]["pid"], events(box, "ejected", instance="echo-blue-1")
                at = time.time()
                signal(box, pid, "KILL")
                ejected = wait_event(box, "ejected", instance="echo-blue-1", count=len(before) + 1)
                assert ejected.at - at < 3, "an answer without an end held the watcher up"
                wait_event(box, "serving", instance="echo-blue-1", after=ejected)
            applied = box.portfleet("apply", check=False)
            assert applied.returncode == 4 and "Traceback" not in applied.stderr, applied
            assert "does not answer properly" in applied.stdout, applied
        assert clients.refused == 0 and clients.lost_beside("echo-blue-1") == []
        assert pid_of(box, "portfleet-watch") == watcher
        assert {name for name, seen in box.status().items() if seen["state"] == "ready" and "echo" in name} == {
            f"echo-blue-{number}" for number in (1, 2, 3, 4)
        }


@contextmanager
def held(box: FleetBox, port: int) -> Iterator[None]:
    """Hold a connection to a port of the host while the block runs."""
    code = f"import socket; held = socket.create_connection(('{HOST4}', {port})); print('up', flush=True); held.recv(1)"
    process = box.boxes.clients.popen(sys.executable, "-c", code)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.long
@needs_another_user
def test_a_link_to_the_socket_of_another_service_is_of_no_use() -> None:
    with fleet_box() as box:
        show_checkout(box.boxes.host)
        victim = f"{HOME}/run/nobody/echo-blue-1.sock"
        one = NAMED.replace("instances = 4", 'instances = 1\nuser = "nobody"')
        box.write(one + odd(box, victim, more='user = "games"'))
        box.portfleet("up")
        with load(box, held=30, connects=5) as clients, held(box, 7200):
            box.boxes.host.run("touch", _NOW)
            link = f"{HOME}/run/games/odd-blue-1.sock"
            wait_for("it is a link", lambda: box.boxes.host.run("test", "-L", link, check=False).returncode == 0)
            seen = box.status()["odd-blue-1"]
            assert "ELOOP" in seen["why"] and seen["connections"] == 1, seen
            drain = ("drain", "odd/1", "--force", "--rate", "100", "--deadline", "1s", "--then", "kill")
            assert "drained" in box.portfleet(*drain).stdout
            assert events(box, "killed", instance="odd-blue-1"), "it did not answer, so it was ended itself"
            assert box.status()["echo-blue-1"]["connections"] >= 30
        assert clients.lost == [] and clients.refused == 0
        assert json.loads(box.portfleet("status", "--json").stdout)["services"][0]["instances"][0]["state"] == "ready"
        assert not box.boxes.host.run("sh", "-c", f"ls {HOME}/run/*.sock").stdout.count("blue"), "no names beside"
