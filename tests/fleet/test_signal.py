"""A foreign daemon is told things: to end by its own signal, in its own time, with its umask, and to read its files."""

from __future__ import annotations

import sys

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box
from support.sandbox import HOST4, wait_for
from support.watched import wait_event

#: Serves; says in a file beside it which signals came, the umask it has, and how it ended. SIGUSR2 is in no handler.
DAEMON = """
import os, signal, socket, sys, time
port, name = int(sys.argv[1]), f"{sys.argv[2]}.{os.getpid()}"
socket.setdefaulttimeout(None)
listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
def note(text):
    with open(name, "a") as file:
        file.write(text + " ")
def told(number, _):
    note(signal.Signals(number).name)
    if number in (signal.SIGQUIT, signal.SIGTERM):
        time.sleep(float(sys.argv[3]))
        note("ended")
        os._exit(0)
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(number, told)
note("umask=%03o" % os.umask(0))
if len(sys.argv) > 4:
    os.fork()
while True:
    try:
        listener.accept()[0].close()
    except InterruptedError:
        pass
"""
NGINX = """
daemon off;
pid {home}/nginx-{port}.pid;
worker_processes 2;
events {{}}
http {{
  access_log off;
  server {{ listen [::]:{port} ipv6only=off; location / {{ return 200 {word}; }} }}
}}
"""


def put(box: FleetBox, path: str, text: str) -> str:
    """Write a file of the home, which may be run."""
    script = f"cat > {HOME}/{path}; chmod 755 {HOME}/{path}"
    box.boxes.host.run("sh", "-c", script, text=text)
    return f"{HOME}/{path}"


def config(command: str, more: str = "", *, instances: int = 1) -> str:
    return f"""
[service.app]
listen = [":7000"]
command = {command}
ports = "7100-7103"
instances = {instances}
{more}
"""


def notes(box: FleetBox) -> list[str]:
    """Return what the first instance's processes have noted, the eldest first."""
    script = f"for f in $(ls -tr {HOME}/note-app-blue-1.*); do cat $f; echo; done"
    return [line.strip() for line in box.boxes.host.run("sh", "-c", script).stdout.splitlines()]


@pytest.mark.long
def test_it_ends_by_its_own_signal_and_has_the_time_it_needs_and_its_umask() -> None:
    with fleet_box() as box:
        daemon = put(box, "daemon.py", DAEMON)
        command = f'["{sys.executable}", "{daemon}", "{{port}}", "{HOME}/note-{{instance}}", "1.5"]'
        more = 'stop_signal = "QUIT"\nstop_timeout = "20s"\numask = "027"\n'
        box.write(config(command, more, instances=2))
        box.portfleet("up")
        box.portfleet("restart", "app/1")
        assert notes(box) == ["umask=027 SIGQUIT ended", "umask=027"]
        box.write(config(command, more.replace("20s", "500ms"), instances=2))
        assert box.portfleet("plan", "--check", check=False).returncode == 0, "a time is no reason for a restart"
        box.portfleet("apply")
        box.portfleet("restart", "app/1")
        assert notes(box)[1:] == ["umask=027 SIGQUIT", "umask=027"], "it was killed before its end"
        box.write(config(command, more.replace("QUIT", "TERM"), instances=2))
        box.portfleet("apply")
        assert notes(box)[2].startswith("umask=027 SIGQUIT"), "it ends by the signal that it was started with"
        box.portfleet("down", "--yes")
        assert notes(box)[3].startswith("umask=027 SIGTERM")


@pytest.mark.long
def test_a_signal_goes_to_the_daemon_itself_and_to_no_shell_and_no_worker() -> None:
    with fleet_box() as box:
        daemon = put(box, "daemon.py", DAEMON)
        shell = f'#!/bin/sh\n{sys.executable} {daemon} "$1" {HOME}/note-app-blue-1 0 fork\necho done\n'
        box.write(config(f'["{put(box, "start.sh", shell)}", "{{port}}"]'))
        box.portfleet("up")

        refused = box.portfleet("signal", "app", check=False)
        assert refused.returncode == 2 and "portfleet signal app HUP" in refused.stderr, refused
        for word in ("KILL", "TERM", "SIGSTOP", "NOPE"):
            refused = box.portfleet("signal", "app", word, check=False)
            assert refused.returncode == 2 and "HUP, USR1" in refused.stderr, refused

        box.write(config(f'["{HOME}/start.sh", "{{port}}"]', 'reload_signal = "HUP"'))
        assert box.portfleet("apply").returncode == 0
        said = box.portfleet("signal", "app").stdout
        assert "app-blue-1: SIGHUP sent to python" in said, said
        box.portfleet("signal", "app/1", "sigusr1")
        wait_for("both have come", lambda: notes(box)[0] == "umask=022 SIGHUP SIGUSR1")
        assert len(notes(box)) == 1, "the worker got none"
        box.settled()


@pytest.mark.long
def test_nginx_reads_its_file_again_and_keeps_its_master() -> None:
    with fleet_box() as box:
        put(box, "nginx.conf", NGINX.format(home=HOME, port=7100, word="one"))
        command = f'["nginx", "-c", "{HOME}/nginx.conf", "-g", "# {{port}}"]'
        box.write(config(command, 'stop_signal = "QUIT"\nreload_signal = "HUP"'))
        box.portfleet("up")
        wait_event(box, "watching")
        pid = box.status()["app-blue-1"]["pid"]

        def answer() -> str:
            get = f"import urllib.request as u; print(u.urlopen('http://{HOST4}:7000/').read().decode())"
            return box.boxes.clients.run(sys.executable, "-c", get).stdout.strip()

        assert answer() == "one"
        put(box, "nginx.conf", NGINX.format(home=HOME, port=7100, word="two"))
        assert f"(pid {pid})" in box.portfleet("signal", "app").stdout
        wait_for("it answers by its new file", lambda: answer() == "two")
        assert box.status()["app-blue-1"]["pid"] == pid
