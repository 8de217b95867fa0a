"""`portfleet status` answers in time whoever else does not.

What it costs with 64 instances is measured by `script/bench control/status`.
"""

from __future__ import annotations

import sys
import time

import pytest

from support.fleet_box import ECHO, HOME, PORTFLEET, fleet_box
from support.watched import pid_of

#: Takes the place of a socket and answers nothing, as a process that hangs; prints "up" when it does.
SILENT = """
import os, socket, sys
listeners = []
for path in sys.argv[1:]:
    os.rename(path, path + ".real")
    listeners.append(socket.socket(socket.AF_UNIX))
    listeners[-1].bind(path)
    listeners[-1].listen()
print("up", flush=True)
sys.stdin.read()
for path in sys.argv[1:]:
    os.rename(path + ".real", path)
"""


@pytest.mark.timed
def test_status_answers_within_two_seconds_when_neither_supervisord_nor_the_watcher_does() -> None:
    sockets = [f"{HOME}/run/{name}.sock" for name in ("supervisor", "watch")]
    with fleet_box(ECHO) as fleet:
        fleet.calm()
        with fleet.boxes.host.popen(sys.executable, "-c", SILENT, *sockets) as silent:
            assert silent.stdout is not None and silent.stdout.readline() == "up\n"
            began = time.monotonic()
            said = fleet.boxes.host.run(PORTFLEET, "--home", HOME, "status", check=False)
            took = time.monotonic() - began
            silent.communicate("")
        pids = pid_of(fleet, "portfleet-watch"), pid_of(fleet, "supervisord")
        assert said.returncode == 8
        first, _, third, *_ = said.stdout.splitlines()
        assert first.startswith(f"the watcher (pid {pids[0]}) does not answer: ")
        assert third.startswith(f"supervisord (pid {pids[1]}) does not answer: ")
        assert said.stdout.count(" serving  ready ") == 4
        assert took < 2, took
        assert fleet.look().returncode == 0
