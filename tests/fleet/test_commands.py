"""A command is proven to be executable by the user it will run as, before anything that is well ends for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.fleet_box import ECHO, REDIS, FleetBox, fleet_box
from support.rights import needs_another_user
from support.sandbox import wait_for
from support.watched import pid_of, signal, wait_event

_TWO = REDIS.replace("instances = 4", "instances = 2")
_SCRIPT = "#!/bin/sh\nexec redis-server --port $1 --save '' --protected-mode no\n"
_BY_SCRIPT = _TWO.replace(
    '["redis-server", "--port", "{port}", "--save", "", "--protected-mode", "no"]', '["/srv/kv/start.sh", "{port}"]'
)
_HOME = "/run/srv"
_DAEMON = Path(sys.executable).with_name("portfleet-daemon")
_SOURCES = [f"198.18.2.{number}" for number in range(1, 9)]


def ship(box: FleetBox, path: str, text: str = _SCRIPT, *, mode: str = "755", folder: str = "755") -> None:
    """Write a script into a folder of the box's own."""
    script = 'd=${1%/*}; mkdir -p $d && chmod "$3" $d && cat > $1 && chmod "$2" $1'
    box.boxes.host.run("sh", "-c", script, "ship", path, mode, folder, text=text)


def serving(box: FleetBox) -> set[int]:
    """Return the pids of the instances that serve, which answer."""
    assert box.redis_ports(_SOURCES)
    return {one["pid"] for one in box.status().values() if one["state"] == "ready"}


def refused(box: FleetBox, *words: str) -> str:
    done = box.portfleet(*words, check=False)
    assert done.returncode in (1, 2), done
    return done.stdout + done.stderr


_BROKEN = [
    ({"text": "#!/no/such/interpreter\n"}, "is run by '/no/such/interpreter': /no/such/interpreter does not exist"),
    ({"text": "#!/usr/bin/env no-such-program\n"}, "is run by 'no-such-program': no-such-program is not found"),
    ({"text": "#!/bin/sh\r\n"}, r"is run by '/bin/sh\r'"),
    ({"text": "exec redis-server\n"}, "is neither a binary nor a script: its first line must begin with #!"),
    ({"mode": "644"}, "root may not execute /run/srv/new/start.sh (-rw-r--r-- root)"),
]


@pytest.mark.long
def test_nothing_healthy_is_stopped_for_a_command_that_cannot_be_executed() -> None:
    good = _BY_SCRIPT.replace("/srv/kv", f"{_HOME}/old")
    bad = _BY_SCRIPT.replace("/srv/kv", f"{_HOME}/new")
    with fleet_box() as box:
        ship(box, f"{_HOME}/old/start.sh")
        box.write(good)
        box.portfleet("up")
        before = serving(box)
        box.write(bad)
        for how, words in _BROKEN:
            ship(box, f"{_HOME}/new/start.sh", **how)
            for verb in (("check",), ("plan",), ("apply", "--yes"), ("cutover", "kv")):
                assert words in refused(box, *verb), verb
        assert serving(box) == before
        box.write(good)
        box.boxes.host.run("chmod", "644", f"{_HOME}/old/start.sh")
        for words in ("restart kv", "scale kv 3", "cutover kv --force", "apply"):
            said = box.portfleet(*words.split(), check=False)
            assert words == "apply" or "may not execute" in said.stdout + said.stderr, said
        assert serving(box) == before
        box.boxes.host.run("chmod", "755", f"{_HOME}/old/start.sh")
        box.portfleet("restart", "kv/1")
        assert len(serving(box) & before) == 1


@needs_another_user
def test_the_proof_is_made_for_the_user_who_will_run_it() -> None:
    as_nobody = _BY_SCRIPT.replace("/srv/kv", f"{_HOME}/closed").replace("instances", 'user = "nobody"\ninstances')
    with fleet_box() as box:
        ship(box, f"{_HOME}/closed/start.sh", folder="700")
        box.write(as_nobody)
        for verb in ("check", "plan", "up"):
            assert f"nobody may not enter {_HOME}/closed (drwx------ root)" in refused(box, verb)
        assert "neither supervisord nor the watcher is running" in box.portfleet("status", check=False).stdout
        box.boxes.host.run("chmod", "755", f"{_HOME}/closed")
        box.portfleet("up")
        assert serving(box)


@pytest.mark.long
def test_a_release_that_is_added_later_stops_nothing_and_can_be_rolled_back() -> None:
    began = _BY_SCRIPT.replace("/srv/kv", f"{_HOME}/v1")
    later = began.replace(f"{_HOME}/v1/start.sh", "{release}/start.sh")
    with fleet_box() as box:
        ship(box, f"{_HOME}/v1/start.sh")
        box.write(began)
        box.portfleet("up")
        before = serving(box)
        box.write(later.replace("instances", f'release = "{_HOME}/v2"\ninstances'))
        assert "is not there; ship it before the cutover" in box.portfleet("check").stdout
        box.portfleet("apply")
        assert serving(box) == before
        assert f"release {_HOME}/v2 does not exist" in refused(box, "cutover", "kv")
        ship(box, f"{_HOME}/v2/start.sh")
        box.portfleet("cutover", "kv")
        assert not serving(box) <= before and set(box.redis_ports(_SOURCES).values()) <= {6104, 6105}
        box.portfleet("restart", "kv")
        box.portfleet("rollback", "kv")
        assert set(box.redis_ports(_SOURCES).values()) <= {6100, 6101} and before <= serving(box)
        box.portfleet("apply")
        assert before <= serving(box)


@pytest.mark.long
def test_a_release_that_is_reached_by_a_link_is_known_by_where_it_led() -> None:
    config = _BY_SCRIPT.replace("/srv/kv/start.sh", "{release}/start.sh")
    config = config.replace("instances", f'release = "{_HOME}/current"\ninstances')

    def link(box: FleetBox, name: str) -> None:
        box.boxes.host.run("ln", "-sfn", f"{_HOME}/{name}", f"{_HOME}/current")

    def release(box: FleetBox) -> str:
        return str(json.loads(box.look("--json").stdout)["services"][0]["release"])

    with fleet_box() as box:
        for name in ("v1", "v2"):
            ship(box, f"{_HOME}/{name}/start.sh")
        link(box, "v1")
        box.write(config)
        box.portfleet("up")
        assert release(box) == f"{_HOME}/v1"
        link(box, "v2")
        assert f"{_HOME}/v1 runs, {_HOME}/v2 is configured: cutover needed" in box.portfleet("plan").stdout
        box.portfleet("restart", "kv")
        assert release(box) == f"{_HOME}/v1"
        box.portfleet("cutover", "kv")
        assert release(box) == f"{_HOME}/v2" and f"release {_HOME}/v2" in box.portfleet("history").stdout
        box.portfleet("rollback", "kv")
        assert release(box) == f"{_HOME}/v1"
        box.write(config.replace("instances = 2", "instances = 3"))
        for verb in (("status",), ("explain", "kv", _SOURCES[0])):
            said = box.portfleet(*verb, check=False).stderr
            assert "differs from what was applied, which is shown: instances of kv" in said, said


def test_what_was_applied_is_not_judged_by_the_machine_as_it_is_now() -> None:
    moved = "/run/srv/daemon"
    config = ECHO.replace('"portfleet-daemon"', f'"{moved}"').replace("instances = 4", 'instances = 2\nrelease = "v1"')
    with fleet_box() as box:
        box.boxes.host.run("sh", "-c", f"mkdir -p /run/srv && ln -s {_DAEMON} {moved}")
        box.write(config)
        box.portfleet("up")
        box.portfleet("cutover", "echo", "--release", "v2")
        box.boxes.host.sysctl("net.ipv4.ip_local_port_range", "7000 60999")
        box.boxes.host.run("mv", moved, f"{moved}.away")
        looked = box.look("-q")
        said = box.look()
        assert looked.returncode == 0 and "warning: service.echo.ports" in said.stderr, said
        assert "is not found" in said.stderr, said
        box.portfleet("drain", "echo/1")
        box.portfleet("undrain", "echo/1")
        box.portfleet("rollback", "echo")
        assert {one.split("-")[1] for one in box.who(_SOURCES).values()} == {"blue"}
        watcher = pid_of(box, "portfleet-watch")
        signal(box, watcher, "KILL")
        wait_for("another watcher", lambda: pid_of(box, "portfleet-watch") not in (0, watcher))
        victim = box.status()["echo-blue-2"]["pid"]
        signal(box, victim, "KILL")
        wait_event(box, "ejected", instance="echo-blue-2")
        assert set(box.who(_SOURCES).values()) == {"echo-blue-1"}
        assert "lies in net.ipv4.ip_local_port_range" in refused(box, "check")
        box.write(config + "sticky = '1h'\n")
        assert "is not found" in refused(box, "apply")
        box.boxes.host.run("mv", f"{moved}.away", moved)
        box.write(config)
        box.wait_state("echo-blue-2", "ready")
