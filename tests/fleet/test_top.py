"""`portfleet top` beside real clients: whose counters move, whose do not, and what is not there."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from contextlib import suppress

import pytest

from support.fleet_box import ECHO, HOME, PORTFLEET, REDIS, fleet_box
from support.held import dialled
from support.sandbox import HOST4, wait_for
from support.watched import load


@pytest.mark.long
def test_top_shows_what_clients_do() -> None:
    with fleet_box(ECHO.replace("whoami", "echo") + REDIS) as fleet:
        fleet.portfleet("down", "kv", "--yes")
        with load(fleet, held=40, connects=50) as clients:
            lines = fleet.portfleet("top", "--json", "--every", "500ms", "-n", "3").stdout.splitlines()
            shown = fleet.portfleet("top", "echo", "--every", "500ms", "-n", "1").stdout
        fleet.portfleet("up")
        idle = json.loads(fleet.portfleet("top", "kv", "--json", "--every", "500ms", "-n", "1").stdout)
        wrong = fleet.portfleet("top", "nosuch", check=False)

    assert (len(lines), clients.lost, clients.refused) == (3, [], 0)
    echo, kv = json.loads(lines[-1])["services"]
    assert (echo["live"], kv["instances"]) == ("blue", []) and "root" in kv["down"]
    assert len(echo["instances"]) == 4 and all(one["rates"]["requests"] > 0 for one in echo["instances"])
    assert sum(one["connections"] for one in echo["instances"]) >= 40
    assert sum(one["rates"]["accepts"] for one in echo["instances"]) > 0
    assert all(0 < one["rates"]["p50"] <= one["rates"]["p99"] for one in echo["instances"])
    assert "echo-blue-4" in shown and "kv" not in shown
    redis = [one["rates"] for one in idle["services"][0]["instances"]]
    assert len(redis) == 4 and all(one["requests"] is None and one["memory"] > 1_000_000 for one in redis)
    assert all(one["accepts"] is not None and one["bytes_in"] is not None for one in redis)
    assert (wrong.returncode, "services are: echo, kv" in wrong.stderr) == (2, True)


@pytest.mark.long
def test_ctrl_c_ends_it_well() -> None:
    with fleet_box(ECHO) as fleet:
        top = fleet.boxes.host.popen(PORTFLEET, "--home", HOME, "top", "--every", "100ms")
        out = top.stdout
        assert out is not None
        wait_for("it shows something", lambda: "echo-blue-1" in out.readline())
        fleet.boxes.host.run("pkill", "-INT", "-f", "portfleet .* top ")
        assert (top.wait(10), "Traceback" in out.read()) == (0, False)


@pytest.mark.long
def test_the_kernel_tells_what_a_daemon_does_not_count() -> None:
    with fleet_box(REDIS) as fleet, dialled(fleet.boxes.clients, (HOST4, 6000)) as held:
        top = fleet.boxes.host.popen(PORTFLEET, "--home", HOME, "top", "--json", "--every", "300ms")
        assert top.stdout is not None
        top.stdout.readline()
        with dialled(fleet.boxes.clients, (HOST4, 6000)) as more:
            accepts = bytes_in = 0.0
            while not (accepts and bytes_in):
                for one in (held[0], more[0]):
                    one.sendall(b"PING\r\n")
                    one.recv(100)
                (kv,) = json.loads(top.stdout.readline())["services"]
                accepts += sum(one["rates"]["accepts"] for one in kv["instances"])
                bytes_in += sum(one["rates"]["bytes_in"] for one in kv["instances"])
        top.terminate()
        top.wait(10)


@pytest.mark.long
def test_on_a_terminal_keys_select_and_drain_after_a_question() -> None:
    with fleet_box(ECHO) as fleet:
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 40, 200, 0, 0))
        argv = ("setsid", "--ctty", PORTFLEET, "--home", HOME, "top", "--sort", "name", "--every", "300ms")
        top = subprocess.Popen(fleet.boxes.host.argv(argv), stdin=follower, stdout=follower, stderr=follower)
        os.close(follower)
        os.set_blocking(leader, False)
        screen = bytearray()

        def shows(words: str) -> bool:
            with suppress(BlockingIOError):
                screen.extend(os.read(leader, 1 << 16))
            return words in screen.decode(errors="replace")

        def press(key: bytes, words: str) -> None:
            os.write(leader, key)
            wait_for(f"the screen shows {words}", lambda: shows(words))
            screen.clear()

        wait_for("it shows instances", lambda: shows("echo-blue-4") and shows("sorted by name"))
        press(b"c", "sorted by cpu")
        press(b"i", "sorted by name")
        press(b"\x1b[B", "> echo-blue-1")
        press(b"j", "> echo-blue-2")
        press(b"d", "would drain echo-blue-2")
        press(b"n", "up/down select")
        assert fleet.status()["echo-blue-2"]["wanted"] == "serving"
        press(b"d", "; no connections there.")
        press(b"y", "begun: drain echo-blue-2")
        assert fleet.status()["echo-blue-2"]["wanted"] == "drained"
        before = termios.tcgetattr(leader)[3]
        os.write(leader, b"q")
        assert top.wait(10) == 0
        assert not before & termios.ICANON and termios.tcgetattr(leader)[3] & termios.ICANON, (
            "the terminal is as before"
        )
        os.close(leader)
