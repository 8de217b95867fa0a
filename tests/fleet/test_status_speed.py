"""`portfleet status` with 64 instances is quick enough to be typed without thinking.

Measured beside the bare interpreter in the same run, turn by turn, best of each: a slow machine makes both slower. What
is judged is the time of the CPU, since a machine busy with other things stretches the clock's time of the longer one
more; what `status` waits for, supervisord and the kernel, is less than a tenth of it.
"""

from __future__ import annotations

import json
import sys
import time

import pytest

from support.fleet_box import ECHO, HOME, PORTFLEET, REDIS, fleet_box
from support.watched import pid_of

#: (clock, CPU) times in seconds of the two, printed as JSON: runs inside the box, so that entering it is not measured.
MEASURE = """
import json, resource, subprocess, sys, time
python, portfleet, home = sys.argv[1:]
def run(*argv):
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used
both = [(run(python, "-c", "pass"), run(portfleet, "--home", home, "status")) for _ in range(25)]
print(json.dumps([[min(kind) for kind in zip(*times)] for times in zip(*both)]))
"""
#: As after an installation: modules are compiled once.
COMPILED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": "/run/compiled"}


@pytest.mark.timed
def test_status_with_64_instances_takes_twenty_times_the_cpu_of_the_bare_interpreter_at_most() -> None:
    many = REDIS.replace("instances = 4", 'instances = 64\nstart_timeout = "2m"').replace("6107", "6299")
    with fleet_box() as fleet:
        fleet.write(many)
        fleet.boxes.host.run(PORTFLEET, "--home", HOME, "up", timeout=150, env=COMPILED)
        assert len([i for i in fleet.status().values() if i["state"] == "ready"]) == 64

        measured = fleet.boxes.host.run(
            sys.executable, "-c", MEASURE, sys.executable, PORTFLEET, HOME, env=COMPILED, timeout=150
        ).stdout

    (bare_clock, bare), (clock, status) = json.loads(measured)
    words = f"status {clock:.3f} s ({status:.3f} s of CPU), bare interpreter {bare_clock:.3f} s ({bare:.3f} s)"
    assert status < 20 * bare, words  # 14 to 15 are usual
    print(words)


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
