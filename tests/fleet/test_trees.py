"""Instances of more than one process: shells that do not exec, workers, daemons that go into the background."""

from __future__ import annotations

import sys
import time

import pytest

from portfleet.supervise.supervisor import Supervisor
from support.fleet_box import HOME, FleetBox, fleet_box
from support.forms import forms
from support.sandbox import wait_for
from support.watched import events, signal, wait_event

#: A start script as they are written: it stays the parent of what it starts.
SCRIPT = '#!/bin/sh\nredis-server --port "$1" --save "" --protected-mode no\necho done\n'


def kv(command: str, *, instances: int = 2, more: str = "") -> str:
    return f"""
[service.kv]
listen = [":6000"]
command = {command}
ports = "6100-6107"
instances = {instances}
start_timeout = "8s"
{more}
[service.kv.probe]
interval = "200ms"
"""


def put(box: FleetBox, path: str, text: str) -> str:
    box.boxes.host.run("sh", "-c", f"mkdir -p $(dirname {HOME}/{path}); cat > {HOME}/{path}; chmod 755 {HOME}/{path}",
                       text=text)  # fmt: skip
    return f"{HOME}/{path}"


def running(box: FleetBox, word: str) -> dict[int, str]:
    """Return the processes of which the command's first word ends so."""
    found = {pid: words for pid, words in box.processes().items() if words}
    return {pid: words for pid, words in found.items() if words.split()[0].split(":")[0].endswith(word)}


@pytest.mark.long
def test_a_shell_that_does_not_exec_is_restarted_cut_over_and_taken_down_with_its_children() -> None:
    with fleet_box() as box:
        for name in ("r1", "r2"):
            put(box, f"rel/{name}/start.sh", SCRIPT)
        box.write(kv('["{release}/start.sh", "{port}"]', more=f'releases = "{HOME}/rel"\nrelease = "r1"'))
        box.portfleet("up")
        assert len(running(box, "redis-server")) == 2
        before = running(box, "redis-server")
        box.portfleet("restart", "kv/2")
        after = running(box, "redis-server")
        assert len(after) == 2 and len(before.keys() & after.keys()) == 1, (before, after)
        for colour, release in (("green", "r2"), ("blue", "r1"), ("green", "r2")):
            box.portfleet("cutover", "kv", "--release", release, "--keep", "0")
            assert {name for name, seen in box.status().items() if seen["state"] == "ready"} == {
                f"kv-{colour}-1", f"kv-{colour}-2",
            }  # fmt: skip
            wait_for("the others have ended", lambda: len(running(box, "redis-server")) == 2)
        box.settled()
        assert "down" in box.portfleet("down", "--yes").stdout
        assert running(box, "redis-server") == {} and running(box, "start.sh") == {}
        box.portfleet("up")


@pytest.mark.parametrize("kind", forms(["setsid", "shell"]))
def test_what_a_crash_leaves_behind_is_ended_before_the_next_start_serves(kind: str) -> None:
    with fleet_box() as box:
        run = {"shell": 'redis-server --port "$1"', "setsid": 'setsid redis-server --port "$1" & wait #'}[kind]
        start = put(box, "start.sh", SCRIPT.replace('redis-server --port "$1"', run))
        box.write(kv(f'["{start}", "{{port}}"]'))
        box.portfleet("up")
        wait_event(box, "watching")
        pid = box.status()["kv-blue-1"]["pid"]
        old = running(box, "redis-server")
        signal(box, pid, "KILL")
        wait_event(box, "ending-remains", instance="kv-blue-1")
        wait_event(box, "serving", instance="kv-blue-1", after=wait_event(box, "ejected", instance="kv-blue-1"))
        new = running(box, "redis-server")
        assert len(new) == 2 and len(old.keys() & new.keys()) == 1
        box.portfleet("down", "--yes")
        assert running(box, "redis-server") == {}


HAPROXY = """
defaults
  mode http
  timeout client 5s
  timeout connect 5s
  timeout server 5s
frontend f
  bind :"$PORT"
  bind :::"$PORT" v6only
  http-request return status 200 content-type text/plain string "NAME\\n"
"""


@pytest.mark.long
def test_after_releases_that_share_their_port_only_the_last_answers() -> None:
    with fleet_box() as box:
        for name in ("h1", "h2", "h3"):
            put(box, f"rel/{name}/h.cfg", HAPROXY.replace("NAME", name))
            put(box, f"rel/{name}/start.sh", '#!/bin/sh\nPORT=$1 haproxy -db -f "$(dirname "$0")/h.cfg"\n:\n')
        more = f'releases = "{HOME}/rel"\nrelease = "h1"'
        box.write(kv('["{release}/start.sh", "{port}"]', more=more))
        box.portfleet("up")
        for name in ("h2", "h3"):
            box.portfleet("cutover", "kv", "--release", name, "--keep", "0")
        sources = [f"198.18.3.{number}" for number in range(1, 41)]
        asked = box.ask(sources, port=6000, message="GET / HTTP/1.0\r\n\r\n", lines=6)
        assert {one.reply.split("\n")[-1] for one in asked if one.reply} == {"h3"}, asked[:3]
        assert len(running(box, "haproxy")) == 2
        box.portfleet("down", "--yes")
        assert running(box, "haproxy") == {}


BACKGROUND = {
    "memcached": "memcached -d -u root -U 0 -p $1",
    "haproxy": 'PORT=$1 haproxy -D -f "$(dirname "$0")/h.cfg"',
    "redis-server": 'redis-server --daemonize yes --save "" --protected-mode no --port $1',
}


@pytest.mark.parametrize("daemon", forms(BACKGROUND, "redis-server"))
def test_a_daemon_that_puts_itself_into_the_background_is_named_and_not_started_again(daemon: str) -> None:
    with fleet_box() as box:
        put(box, "h.cfg", HAPROXY)
        start = put(box, "start.sh", f"#!/bin/sh\n{BACKGROUND[daemon]}\n")
        box.write(kv(f'["{start}", "{{port}}"]'))
        up = box.portfleet("up", check=False)
        assert up.returncode == 4
        wait_event(box, "in-background", count=2)
        seen = box.status()["kv-blue-1"]
        assert f"it has put itself into the background ({daemon}, pid " in seen["why"], seen
        assert "listens on 6100); run it in the foreground" in seen["why"]
        assert "2 not" in up.stdout and "run it in the foreground" in up.stdout, up.stdout
        there = running(box, daemon)
        began = time.monotonic()
        wait_for("five seconds have gone", lambda: time.monotonic() - began > 5)
        assert running(box, daemon) == there and len(there) <= 4, there
        box.portfleet("restart", "kv/1", check=False)
        assert len(running(box, daemon)) <= 4
        box.portfleet("down", "--yes")
        assert running(box, daemon) == {}
        assert events(box, "unexpected-error") == []


LISTENER = """
import socket, sys, time
found = socket.socket(socket.AF_INET6)
found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
found.bind(("::", int(sys.argv[1])))
found.listen()
print("up", flush=True)
time.sleep(600)
"""


@pytest.mark.long
def test_another_process_on_an_instances_port_is_a_fault_and_nothing_is_started_beside_it() -> None:
    with fleet_box() as box:
        put(box, "h.cfg", HAPROXY.replace("NAME", "h"))
        start = put(box, "start.sh", '#!/bin/sh\nPORT=$1 exec haproxy -db -f "$(dirname "$0")/h.cfg"\n')
        box.write(kv(f'["{start}", "{{port}}"]'))
        box.portfleet("up")
        box.settled()
        script = put(box, "listener.py", LISTENER)
        others = []
        for port in (6100, 6102):  # beside one that serves, and where another is to be
            others.append(box.boxes.host.popen(sys.executable, script, str(port)))
            assert others[-1].stdout is not None and others[-1].stdout.readline() == "up\n"
        wait_event(box, "port-shared", instance="kv-blue-1")
        wait_event(box, "ejected", instance="kv-blue-1")
        seen = box.status()["kv-blue-1"]
        assert seen["state"] == "failed" and "listens on its port 6100" in seen["why"], seen
        scaled = box.portfleet("scale", "kv", "3", check=False)
        assert scaled.returncode == 1 and "kv-blue-3: python" in scaled.stderr, scaled
        assert "listens on its port 6102" in scaled.stderr
        for pid in [pid for pid, words in box.processes().items() if "listener.py" in words]:
            signal(box, pid, "KILL")
        for process in others:
            process.communicate()
        wait_event(box, "serving", instance="kv-blue-1")
        box.portfleet("scale", "kv", "3")
        assert box.status()["kv-blue-3"]["state"] == "ready"


def test_a_stop_right_after_a_start_is_not_lost() -> None:
    name = "kv-blue-1"
    with fleet_box(kv('["redis-server", "--port", "{port}", "--protected-mode", "no"]', instances=1)) as box:
        supervisor = Supervisor(box.boxes.host.path(f"{HOME}/run/supervisor.sock"))
        supervisor.stop("portfleet-watch")  # which would start it, too
        for turn in range(20):
            supervisor.stop(name)
            wait_for(f"stop {turn}", lambda: supervisor.programs()[name].state == "STOPPED", seconds=20)
            supervisor.start(name)
