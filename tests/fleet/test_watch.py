"""The watcher from outside: instances die and hang, and clients do not notice more than they must."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box
from support.sandbox import HOST4, client4, wait_for
from support.watched import NAMED, QUICK, Event, ask_watcher, events, load, pid_of, signal, wait_event

pytestmark = pytest.mark.both_planes

_CLIENTS, _SLICES = (str(Path(__file__).parents[1] / "support" / name) for name in ("clients.py", "slices.py"))


def slots(box: FleetBox) -> dict[str, int]:
    """Return the slots of each instance that has any."""
    return {name: found["slots"] for name, found in box.status().items() if found["slots"]}


def test_the_dead_are_out_at_once_and_back_by_themselves() -> None:
    with fleet_box(NAMED + QUICK) as box:
        before = slots(box)
        with load(box) as clients:
            for number in (1, 2, 3):
                name = f"echo-blue-{number}"
                signal(box, box.status()[name]["pid"], "KILL")
                ejected = wait_event(box, "ejected", instance=name)
                wait_event(box, "serving", instance=name, after=ejected)
        assert clients.refused == 0, clients.report["connects"]
        assert clients.lost_beside("echo-blue-1", "echo-blue-2", "echo-blue-3") == []
        assert slots(box) == before
        if any(slices(box, 1)):  # the kernel has some that can be chosen
            pids = [box.status()[name]["pid"] for name in before]
            wait_for("time slices are short, of those that were started anew too", lambda: slices(box, *pids) == {1e-4})
        box.settled()


def slices(box: FleetBox, *pids: int) -> set[float]:
    """Return how long the time slices of processes are, in seconds."""
    return {float(line) for line in box.boxes.host.run(sys.executable, _SLICES, *map(str, pids)).stdout.split()}


def watched(box: FleetBox) -> list[dict[str, Any]]:
    """Return the instances as the watcher has them."""
    return list(ask_watcher(box, command="instances")["instances"])


def test_many_that_die_at_once_leave_the_slots_to_the_rest() -> None:
    with fleet_box(NAMED + QUICK) as box:
        pids = [str(box.status()[f"echo-blue-{number}"]["pid"]) for number in (1, 2, 3)]
        # An end before the watcher watches the process is not counted.
        wait_for("all are watched", lambda: all(one["pid"] for one in watched(box)))
        with load(box) as clients:
            box.boxes.host.run("kill", "-KILL", *pids)
            for number in (1, 2, 3):
                name = f"echo-blue-{number}"
                wait_event(box, "serving", instance=name, after=wait_event(box, "ejected", instance=name))
        assert clients.refused == 0, clients.report["connects"]
        assert slots(box) == {f"echo-blue-{number}": 1024 for number in (1, 2, 3, 4)}
        assert [found["restarts"] for found in box.status().values() if found["slots"]] == [1, 1, 1, 0]
        box.settled()


@pytest.mark.long
@pytest.mark.timed
def test_the_hung_is_ejected_its_waiting_clients_go_elsewhere_and_it_is_restarted() -> None:
    config = NAMED + QUICK + 'restart_after = "3s"\n'
    with fleet_box() as box:
        box.boxes.host.sysctl("net.core.somaxconn", "4")  # a backlog that a few clients fill
        box.write(config)
        box.portfleet("up")
        name = "echo-blue-2"
        sources = [client4(number) for number in range(200)]
        mine = [source for source, owner in box.explain("echo", sources).items() if owner == name][:30]
        assert len(mine) == 30
        pid = box.status()[name]["pid"]
        signal(box, pid, "STOP")
        asking = box.boxes.clients.popen(sys.executable, _CLIENTS, "ask")
        job = {"to": [HOST4, 7000], "sources": mine, "message": "who\n", "timeout": 10}
        assert asking.stdin is not None
        asking.stdin.write(json.dumps(job) + "\n")
        asking.stdin.flush()
        ejected = wait_event(box, "ejected", instance=name)
        assert "no answer" in ejected.fields["reason"]
        said, _ = asking.communicate(timeout=60)
        answers = json.loads(said)
        moved = [answer for answer in answers if answer["reply"] and answer["reply"].split()[0] != name]
        assert moved, answers  # their SYN had met the full backlog
        # 3 × 200 ms and a time-out until it is ejected, then the next SYN, a second after the one before.
        assert max(answer["seconds"] for answer in moved) < 3 * 0.2 + 0.2 + 2, moved
        wait_event(box, "serving", instance=name, after=wait_event(box, "restarting", instance=name))
        assert box.status()[name]["pid"] != pid
        box.settled()


@pytest.mark.long
def test_one_that_answers_again_while_no_watcher_runs_is_let_in_by_the_next() -> None:
    with fleet_box(NAMED + 'stop_timeout = "1s"\n' + QUICK) as box:  # which does not hear that it is to stop
        pid = box.status()["echo-blue-1"]["pid"]
        signal(box, pid, "STOP")
        wait_for("it is out", lambda: "echo-blue-1" not in slots(box))
        box.portfleet("down", "--yes")
        box.portfleet("up")
        assert len(slots(box)) == 4
        pid, watcher = box.status()["echo-blue-2"]["pid"], pid_of(box, "portfleet-watch")
        signal(box, pid, "STOP")
        wait_for("the second is out", lambda: "echo-blue-2" not in slots(box))
        signal(box, watcher, "KILL")
        signal(box, pid, "CONT")
        wait_for("it serves again", lambda: len(slots(box)) == 4)
        assert box.status()["echo-blue-2"]["pid"] == pid
        box.settled()


@pytest.mark.long
def test_the_last_one_that_serves_is_kept_until_another_is_back() -> None:
    with fleet_box(NAMED.replace("instances = 4", "instances = 2") + QUICK) as box:
        status = box.status()
        first, second = (status[f"echo-blue-{number}"]["pid"] for number in (1, 2))
        signal(box, first, "STOP")
        wait_event(box, "ejected", instance="echo-blue-1")
        signal(box, second, "STOP")
        kept = wait_event(box, "kept", instance="echo-blue-2")
        wait_for("the last one has all", lambda: slots(box) == {"echo-blue-2": 4096})
        signal(box, first, "CONT")
        wait_event(box, "serving", instance="echo-blue-1", after=kept)
        ejected = wait_event(box, "ejected", instance="echo-blue-2")
        wait_for("the first has all", lambda: slots(box) == {"echo-blue-1": 4096})  # a moment after the event
        signal(box, second, "CONT")
        wait_event(box, "serving", instance="echo-blue-2", after=ejected)
        wait_for("both have their share", lambda: slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048})


def test_with_all_out_clients_are_refused_if_that_is_asked_for() -> None:
    with_all_out("refuse", "ConnectionRefusedError")


@pytest.mark.long
@pytest.mark.kernel_only
def test_with_all_out_clients_are_dropped_if_that_is_asked_for() -> None:
    with_all_out("drop", "TimeoutError")


def with_all_out(policy: str, met: str) -> None:
    """Have every instance hang and come back; a client meanwhile meets an error that names ``met``."""
    config = NAMED.replace("instances = 4", f'instances = 2\nwhen_empty = "{policy}"')
    with fleet_box(config + QUICK) as box:
        pids = [found["pid"] for found in box.status().values() if found["pid"]]
        for pid in pids:
            signal(box, pid, "STOP")
        wait_event(box, "ejected", count=2)
        wait_for("no slot points anywhere", lambda: slots(box) == {})
        job = {"to": [HOST4, 7000], "sources": [client4(1)], "message": "who\n", "timeout": 2}
        said = box.boxes.clients.run(sys.executable, _CLIENTS, "ask", text=json.dumps(job) + "\n").stdout
        error = json.loads(said)[0]["error"]
        assert met in error
        for pid in pids:
            signal(box, pid, "CONT")
        wait_for("both serve", lambda: slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048})
        assert set(box.who([client4(number) for number in range(40)]).values()) == {"echo-blue-1", "echo-blue-2"}


def wrapped(box: FleetBox, before: str, *, name: str = "wrapped", instances: int = 2) -> str:
    """Put a command before our daemon, which runs in ``HOME/own/NAME``, and give the config that uses it."""
    script = f'#!/bin/sh\n{before}\nexec portfleet-daemon "$@"\n'
    path = f"{HOME}/own/{name}"
    box.boxes.host.run("sh", "-c", f"mkdir -p {HOME}/own && cat > {path} && chmod +x {path}", text=script)
    config = NAMED.replace('"portfleet-daemon"', f'"{path}"')
    return config.replace("instances = 4", f"instances = {instances}")


@pytest.mark.long
def test_a_crash_loop_is_loud_and_mends_itself() -> None:
    with fleet_box() as box:
        box.write(wrapped(box, f"test -e {HOME}/bad && echo the data is gone && exit 3"))
        box.portfleet("up")
        box.boxes.host.run("touch", f"{HOME}/bad")
        signal(box, box.status()["echo-blue-1"]["pid"], "KILL")
        given = wait_event(box, "given-up", instance="echo-blue-1")
        assert given.fields["state"] == "FATAL" and given.fields["last_exit"] == "exit status 3"
        found = box.wait_state("echo-blue-1", "failed")
        assert found["last_exit"] == "exit status 3" and found["last_log"] == ["the data is gone"] * 3
        words = box.look().stdout
        assert "ended last with exit status 3" in words and "log: the data is gone" in words
        assert slots(box) == {"echo-blue-2": 4096}
        box.boxes.host.run("rm", f"{HOME}/bad")
        wait_event(box, "serving", instance="echo-blue-1", seconds=40, after=given)
        assert slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048}


def test_a_broken_config_stays_down() -> None:
    with fleet_box() as box:
        # The name is how our daemon is known: one of that name in another directory counts as it.
        box.write(wrapped(box, f"test -e {HOME}/bad && exit 2", name="portfleet-daemon"))
        box.portfleet("up")
        # By then the watcher has heard the daemon itself: what is known of exit status 2 goes for ours alone.
        signal(box, box.status()["echo-blue-1"]["pid"], "KILL")
        ejected = wait_event(box, "ejected", instance="echo-blue-1")
        back = wait_event(box, "serving", instance="echo-blue-1", after=ejected)
        box.boxes.host.run("touch", f"{HOME}/bad")
        signal(box, box.status()["echo-blue-1"]["pid"], "KILL")
        said = wait_event(box, "stays-down", instance="echo-blue-1")
        assert "config is broken" in said.fields["reason"]
        assert box.status()["echo-blue-1"]["state"] == "failed"

        # Any other end would have been followed by a start within 1.2 s: the first wait of the back-off.
        def started() -> list[Event]:
            return [event for event in events(box, "starting", instance="echo-blue-1") if event.at > back.at]

        quiet = time.monotonic() + 3
        wait_for("nothing was started", lambda: time.monotonic() > quiet or started())
        assert started() == [] and box.status()["echo-blue-1"]["pid"] is None


def test_a_death_right_after_up_is_noticed_whatever_the_look_at_the_firewall_takes() -> None:
    with fleet_box() as box:
        # Reading a pipe that nothing writes to takes for ever; others' files may be as slow, and many rules nearly so.
        own_etc = "cp -dR /etc /run 2>/dev/null || :; mount --bind /run/etc /etc"
        box.boxes.host.run("sh", "-ec", f"{own_etc}; rm -f /etc/nftables.conf; mkfifo /etc/nftables.conf")
        box.write(NAMED)
        box.portfleet("up")
        try:
            signal(box, pid := box.status()["echo-blue-1"]["pid"], "KILL")
            ejected = wait_event(box, "ejected", instance="echo-blue-1", seconds=10)
            assert ejected.fields["reason"] == f"process {pid} ended"
            wait_event(box, "serving", instance="echo-blue-1", after=ejected)
        finally:
            box.boxes.host.run("sh", "-c", "echo 1<> /etc/nftables.conf; rm /etc/nftables.conf")


@pytest.mark.long
def test_an_operators_restart_does_not_flap() -> None:
    with fleet_box(NAMED) as box:
        with load(box, held=0, connects=100) as clients:  # held connections would be let finish first
            box.write(NAMED.replace("environment = {", 'environment = { TURN = "2",'))
            box.portfleet("apply")
        assert clients.refused == 0, clients.report["connects"]
        box.settled()
        for number in (1, 2, 3, 4):
            name = f"echo-blue-{number}"
            assert len(events(box, "ejected", instance=name)) <= 1
            assert len(events(box, "serving", instance=name)) <= 2
            assert events(box, "given-up", instance=name) == []
        assert slots(box) == {f"echo-blue-{number}": 1024 for number in (1, 2, 3, 4)}


@pytest.mark.long
def test_the_watchers_own_death_changes_nothing_and_its_successor_adopts() -> None:
    with fleet_box(NAMED + QUICK) as box, load(box) as clients:
        rules, before = box.rules("map", "inet", "portfleet", "slots-echo"), box.status()
        first = pid_of(box, "portfleet-watch")
        refused = box.portfleet("watch", check=False)
        assert refused.returncode == 5 and "already running" in refused.stderr
        signal(box, first, "KILL")
        wait_event(box, "watching", count=2)
        assert box.rules("map", "inet", "portfleet", "slots-echo") == rules
        assert {name: found["pid"] for name, found in box.status().items()} == {
            name: found["pid"] for name, found in before.items()
        }
        # One that ends while nobody watches is noticed by the next watcher.
        watcher, victim = pid_of(box, "portfleet-watch"), before["echo-blue-3"]["pid"]
        box.boxes.host.run("sh", "-c", f"kill -KILL {watcher} {victim}")
        wait_event(box, "watching", count=3)
        wait_for("echo-blue-3 is back", lambda: box.status()["echo-blue-3"]["slots"] == 1024)
        assert box.status()["echo-blue-3"]["pid"] != victim
    assert clients.refused == 0, clients.report["connects"]
    assert clients.lost_beside("echo-blue-3") == []


@pytest.mark.long
def test_a_second_watcher_below_supervisord_waits_its_turn() -> None:
    with fleet_box(NAMED) as box:
        waiting = box.boxes.host.popen(*box.argv("watch", "--wait"))
        assert waiting.stdout is not None
        assert "waiting" in waiting.stdout.readline()
        signal(box, pid_of(box, "portfleet-watch"), "KILL")
        assert any("watching" in line for line in waiting.stdout)
        wait_event(box, "waiting")  # the one that supervisord has started again
        waiting.kill()
        waiting.wait()
