"""What must not end the watcher, from outside: a directory that is away, kills, a stop, a supervisord that hangs."""

from __future__ import annotations

import json
import time

import pytest

from support.fleet_box import HOME, fleet_box
from support.sandbox import wait_for
from support.watched import NAMED, QUICK, ask_watcher, events, pid_of, signal, wait_event, watch_status


@pytest.mark.long
def test_run_that_is_away_for_four_seconds_costs_no_ejection_and_no_watcher() -> None:
    with fleet_box(NAMED + QUICK) as box:
        watcher = pid_of(box, "portfleet-watch")
        wait_event(box, "watching")
        box.settled()
        # Of one that never spoke the port alone is asked, which a process that hangs has open.
        wait_for(
            "all have spoken", lambda: all(one["said"] for one in ask_watcher(box, command="instances")["instances"])
        )
        pids = {name: found["pid"] for name, found in box.status().items()}
        host = box.boxes.host
        host.run("mv", f"{HOME}/run", f"{HOME}/away")
        began = time.monotonic()
        signal(box, pids["echo-blue-1"], "STOP")  # found by its probes alone
        signal(box, pids["echo-blue-2"], "KILL")
        ejected = {number: wait_event(box, "ejected", instance=f"echo-blue-{number}") for number in (1, 2)}
        assert time.monotonic() - began < 3
        wait_for("run/ has been away for 4 s", lambda: time.monotonic() - began > 4)
        host.run("mv", f"{HOME}/away", f"{HOME}/run")
        signal(box, pids["echo-blue-1"], "CONT")
        for number, left in ejected.items():  # whichever came first, and the other may be back before it
            wait_event(box, "serving", instance=f"echo-blue-{number}", after=left)
        box.settled()
        assert pid_of(box, "portfleet-watch") == watcher
        assert events(box, "unexpected-error") == []


@pytest.mark.long
def test_the_watcher_is_started_again_however_often_it_ends() -> None:
    with fleet_box(NAMED + QUICK) as box:
        for _ in range(8):  # in a row, each right after its start: more than supervisord tries by itself
            pid = wait_for("a watcher runs", lambda: pid_of(box, "portfleet-watch"))
            signal(box, pid, "KILL")
            wait_for("it has ended", lambda pid=pid: pid_of(box, "portfleet-watch") != pid)  # type: ignore[misc] # bound
        name, killed = "echo-blue-1", time.time()
        # Not by its socket's file, which one that was killed has left behind.
        wait_for("one watches", lambda: any(event.at > killed for event in events(box, "watching")))
        box.settled()
        signal(box, box.status()[name]["pid"], "KILL")
        wait_event(box, "serving", instance=name, after=wait_event(box, "ejected", instance=name))


@pytest.mark.long
@pytest.mark.timed
def test_a_stuck_watcher_is_replaced_and_status_says_so() -> None:
    with fleet_box(NAMED + QUICK) as box:
        first = wait_event(box, "watching")
        box.settled()
        pid = pid_of(box, "portfleet-watch")
        signal(box, pid, "STOP")
        time.sleep(6)  # its loop must have stood still for more than five seconds
        signal(box, pid, "CONT")
        ended = wait_event(box, "watcher-ended", after=first)
        assert "most recent call first" in ended.fields["stacks"]
        assert pid_of(box, "portfleet-watch") not in (0, pid)
        told = wait_for("status tells it", lambda: _warned(box.look("--json").stdout))
        assert "stuck" in told
        box.settled()


@pytest.mark.long
def test_status_answers_though_supervisord_hangs() -> None:
    with fleet_box(NAMED + QUICK) as box:
        noted = box.boxes.host.path(f"{HOME}/lib/processes.json")
        wait_for("the watcher knows all", lambda: noted.exists() and len(json.loads(noted.read_text())) == 4)
        pids = {name: found["pid"] for name, found in box.status().items() if found["pid"]}
        supervisor = pid_of(box, "supervisord")
        signal(box, supervisor, "STOP")
        began = time.monotonic()
        said = box.look().stdout
        took = time.monotonic() - began
        assert f"supervisord (pid {supervisor}) was stopped by a signal" in said
        assert all(f"{pid}" in said for pid in pids.values()) and said.count(" ready ") == 4, said
        assert took < 3  # 2 s, and what this machine takes to start a process beside others
        signal(box, pids["echo-blue-3"], "KILL")
        wait_for("it is ejected", lambda: "echo-blue-3" in watch_status(box)["out"])
        signal(box, supervisor, "CONT")
        wait_event(box, "serving", instance="echo-blue-3", after=wait_event(box, "ejected", instance="echo-blue-3"))


def _warned(status: str) -> str:
    return " ".join(entry["text"] for entry in json.loads(status)["warnings"] if entry["name"].startswith("unexpected"))
