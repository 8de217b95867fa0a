"""Operations on what hangs, and operations whose watcher or supervisord dies: each keeps its time and its word."""

from __future__ import annotations

import time

import pytest

from support.fleet_box import HOME, fleet_box
from support.operated import ANY_P99, TOLD, follow, operated, slots
from support.sandbox import wait_for
from support.watched import NAMED, QUICK, load, pid_of, signal, wait_event


@pytest.mark.long
@pytest.mark.parametrize(
    ("verb", "state"), [("drain", "drained"), pytest.param("maint", "maintenance", marks=pytest.mark.full)]
)
def test_a_drain_that_kills_ends_what_hangs(verb: str, state: str) -> None:
    with operated() as box:
        before = box.status()["echo-blue-1"]["pid"]
        with load(box, held=30, connects=20) as clients:
            signal(box, before, "STOP")
            done = box.portfleet(verb, "echo/1", "--deadline", "1s", "--then", "kill").stdout
            assert "echo-blue-1 did not answer and was ended by SIGKILL" in done
            found = box.status()["echo-blue-1"]
            assert found["state"] == state and found["pid"] != before
        assert clients.lost_beside("echo-blue-1") == []
        box.portfleet("undrain", "echo")
        box.settled()


@pytest.mark.full
def test_an_instance_that_hung_before_it_was_drained_is_let_be() -> None:
    with fleet_box(NAMED + QUICK + 'restart_after = "2s"\n') as box:
        pid = box.status()["echo-blue-2"]["pid"]
        signal(box, pid, "STOP")
        ejected = wait_event(box, "ejected", instance="echo-blue-2")
        box.portfleet("drain", "echo/2", "--no-wait")
        signal(box, pid, "CONT")
        wait_for("two seconds have passed and some", lambda: time.time() > ejected.at + 3)
        assert box.status()["echo-blue-2"]["pid"] == pid
        follow(box)
        box.portfleet("undrain", "echo/2")
        assert slots(box)["echo-blue-2"] == 1024 and box.status()["echo-blue-2"]["pid"] == pid


@pytest.mark.full
def test_the_deadline_counts_from_the_begin_of_the_drain_also_for_the_next_watcher() -> None:
    with operated() as box, load(box, held=20, connects=0):
        box.portfleet("drain", "echo/1", "--deadline", "4s", "--then", "kill", "--no-wait")
        ending = wait_event(box, "operation-phase", phase="ending")
        wait_for("half the time is over", lambda: time.time() > ending.at + 2)
        signal(box, pid_of(box, "portfleet-watch"), "KILL")
        assert wait_event(box, "deadline").at < ending.at + 5.5
        assert "resumed at 'ending'" in follow(box)


@pytest.mark.full
def test_a_canary_keeps_its_time_when_the_watcher_dies() -> None:
    with operated() as box, load(box, held=40):
        words = ("cutover", "echo", "--release", "v2", "--canary", "25%", "--every", "8s", *ANY_P99)
        box.portfleet(*words, "--no-wait")
        begun = wait_event(box, "operation-phase", phase="canary", count=2)
        wait_for("half the time is over", lambda: time.time() > begun.at + 4)
        signal(box, pid_of(box, "portfleet-watch"), "KILL")
        assert wait_event(box, "operation-phase", phase="switch").at < begun.at + 10
        assert "resumed at 'canary'" in follow(box)


@pytest.mark.full
def test_a_drain_outlives_supervisord() -> None:
    with operated() as box:
        with load(box, held=40, connects=20) as clients:
            box.portfleet("drain", "echo/1", "--rate", "5/s", "--no-wait")
            wait_event(box, "operation-phase", phase="ending")
            signal(box, pid_of(box, "supervisord"), "KILL")
            said = follow(box)
            assert "echo-blue-1 drained" in said and "resumed at 'ending'" in said
        assert clients.refused == 0
        assert clients.lost_beside("echo-blue-1") == []
        assert box.status()["echo-blue-1"]["state"] == "drained"
        box.settled()


@pytest.mark.long
def test_a_cancelled_drain_of_one_that_does_not_come_back_says_so() -> None:
    own = f"{HOME}/own/portfleet-daemon"
    script = f'#!/bin/sh\ntest -e {HOME}/bad && exit 3\nexec portfleet-daemon "$@"\n'
    with fleet_box() as box:
        box.boxes.host.run("sh", "-c", f"mkdir -p {HOME}/own; cat > {own}; chmod +x {own}", text=script)
        box.write(TOLD.replace('"portfleet-daemon"', f'"{own}"').replace("8s", "3s"))
        box.portfleet("up")
        with load(box, held=20, connects=0):
            box.portfleet("drain", "echo", "--force", "--no-wait")
            box.boxes.host.run("touch", f"{HOME}/bad")
            signal(box, box.status()["echo-blue-2"]["pid"], "KILL")
            cancelled = box.portfleet("cancel", "echo", check=False)
        assert cancelled.returncode == 4 and "echo-blue-2 is to serve again, but: " in cancelled.stdout, cancelled


@pytest.mark.full
def test_a_migrate_that_is_cancelled_leaves_what_was_migrated_before() -> None:
    with operated(TOLD.replace("instances = 2", "instances = 3")) as box:
        box.portfleet("migrate", "echo/1", "2", "--share", "50%")
        before = slots(box)
        with load(box, held=30, connects=0):
            box.portfleet("migrate", "echo/1", "3", "--drain", "--no-wait")
            assert slots(box) != before
            assert "echo-blue-2 serves 50 % of echo-blue-1's share as before" in box.portfleet("cancel", "echo").stdout
            assert slots(box) == before
            pid = box.status()["echo-blue-2"]["pid"]
            signal(box, pid, "STOP")  # it has connections to give back, and does not
            box.portfleet("migrate", "echo/1", "1", "--no-wait")
            said = box.portfleet("cancel", "echo").stdout
            signal(box, pid, "CONT")
            assert "echo-blue-2 serves 50 % of echo-blue-1's share as before" in said
            wait_for("all is as before", lambda: slots(box) == before)


@pytest.mark.long
def test_a_share_comes_back_from_an_instance_that_was_scaled_away_and_goes_to_none_that_is_out() -> None:
    with operated(TOLD.replace("instances = 2", "instances = 3")) as box:
        box.portfleet("migrate", "echo/1", "3")
        box.portfleet("scale", "echo", "2")
        assert box.portfleet("migrate", "echo/1", "1").stdout.startswith("echo-blue-1 serves its own share again. ")
        assert slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048}
        signal(box, box.status()["echo-blue-2"]["pid"], "STOP")
        wait_event(box, "ejected", instance="echo-blue-2")
        refused = box.portfleet("migrate", "echo/1", "2", check=False)
        why = "echo-blue-2 does not serve: control socket: no answer within"
        assert refused.returncode == 1 and why in refused.stderr, refused
