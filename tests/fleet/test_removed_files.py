"""Files that other processes remove under a running fleet: none of them is the fact it stood for."""

from __future__ import annotations

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box
from support.sandbox import wait_for
from support.watched import NAMED, QUICK, events, load, pid_of, signal, wait_event

_REDIS = """
[service.kv]
listen = [":6000"]
command = ["redis-server", "--port", "{port}", "--save", "", "--protected-mode", "no"]
ports = "6100-6107"
instances = 2
"""


def processes(box: FleetBox) -> dict[str, int]:
    """Return {instance: pid} of those that run."""
    return {name: seen["pid"] for name, seen in box.status().items() if seen["pid"]}


@pytest.mark.long
def test_a_fleet_whose_run_was_removed_goes_on_and_is_told_as_it_is() -> None:
    with fleet_box(NAMED + QUICK + _REDIS) as box:
        wait_event(box, "watching")
        box.settled()
        before = processes(box)
        watcher, host = pid_of(box, "portfleet-watch"), box.boxes.host
        with load(box) as clients:
            host.run("sh", "-c", f"rm -rf {HOME}/run/*")
            said = box.look().stdout
            assert "is not running:" not in said and "are stopped" not in said and said.count(" ready ") == 6, said
            signal(box, before["echo-blue-1"], "KILL")
            wait_event(box, "serving", instance="echo-blue-1", after=wait_event(box, "ejected", instance="echo-blue-1"))
            up = box.portfleet("up")
            assert "6 instances serving" in up.stdout, up
            wait_for("all answer", lambda: box.look("--quiet").returncode == 0)
        assert clients.refused == 0 and clients.lost_beside("echo-blue-1") == []
        after = processes(box)
        assert {name for name in before if before[name] != after[name]} == {"echo-blue-1"}
        assert pid_of(box, "portfleet-watch") == watcher
        assert events(box, "made-anew") and events(box, "unexpected-error") == []
        box.portfleet("drain", "echo/2")
        host.run("sh", "-c", f"rm -rf {HOME}/run")
        assert "down" in box.portfleet("down", "--yes").stdout
        left = [words for words in box.processes().values() if "redis" in words or "portfleet" in words]
        assert left == [], left


@pytest.mark.long
@pytest.mark.parametrize("notes", ["there", "removed"])
def test_up_adopts_what_runs_when_supervisord_watcher_and_run_are_gone(notes: str) -> None:
    config = NAMED + QUICK + (_REDIS if notes == "there" else "")
    with fleet_box(config) as box:
        wait_event(box, "watching")
        box.settled()
        wait_for("it is noted", lambda: box.boxes.host.path(f"{HOME}/lib/processes.json").exists())
        before = processes(box)
        supervisord = next(pid for pid, words in box.processes().items() if "supervisor.supervisord" in words)
        with load(box) as clients:
            box.boxes.host.run("kill", "-9", str(supervisord), str(pid_of(box, "portfleet-watch")))
            files = f"{HOME}/run" + (f" {HOME}/lib/processes.json" if notes == "removed" else "")
            box.boxes.host.run("sh", "-c", f"rm -rf {files}")
            said = box.portfleet("status", check=False)
            assert said.stdout.count(" ready ") == len(before), said
            box.portfleet("up")
        assert clients.refused == 0 and clients.lost == []
        assert processes(box) == before
        box.portfleet("restart", "echo/1")
        box.portfleet("down", "--yes")
        left = [words for words in box.processes().values() if "redis" in words or "portfleet" in words]
        assert left == [], left


@pytest.mark.long
def test_a_log_that_was_removed_is_made_anew() -> None:
    with fleet_box(_REDIS) as box:
        log = f"{HOME}/log/kv-blue-1.log"
        assert "Ready to accept" in box.portfleet("logs", "kv/1").stdout
        box.boxes.host.run("rm", log, f"{HOME}/log/supervisord.log")
        said = box.portfleet("logs", "kv/1", check=False).stderr
        assert f"the log {log} was removed" in said, said
        wait_for("it is there again", lambda: box.boxes.host.path(log).exists())
        wait_for("so is supervisord's", lambda: box.boxes.host.path(f"{HOME}/log/supervisord.log").exists())
        box.boxes.host.run("redis-cli", "-p", "6100", "save")
        wait_for("redis writes to it", lambda: "saved" in box.portfleet("logs", "kv/1").stdout)
