"""supervisord dies, is killed again, comes back: instances go on serving and find their way below the next one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.fleet_box import HOME, REDIS, FleetBox, fleet_box
from support.held import dialled
from support.operated import operated, phase, slots
from support.sandbox import HOST4, client4, wait_for
from support.watched import NAMED, QUICK, events, load, pid_of, signal, wait_event

_SUPERVISORD = str(Path(sys.executable).with_name("supervisord"))


def pids(box: FleetBox) -> dict[str, int]:
    """Return the processes of the instances that run."""
    return {name: found["pid"] for name, found in box.status().items() if found["pid"]}


def kill_supervisor(box: FleetBox) -> None:
    """End supervisord by SIGKILL and wait until the next one and its watcher are there."""
    before, watcher = pid_of(box, "supervisord"), pid_of(box, "portfleet-watch")
    signal(box, before, "KILL")
    taken = wait_event(box, "supervisord-back", count=1)
    wait_event(box, "watching", after=taken)
    assert pid_of(box, "supervisord") != before
    assert pid_of(box, "portfleet-watch") not in (0, watcher)


def test_instances_outlive_supervisord_and_come_below_the_next_one_at_their_restart() -> None:
    with fleet_box(NAMED + QUICK) as box:
        before = pids(box)
        with load(box) as clients:
            kill_supervisor(box)
            found = box.status()
            assert pids(box) == before and all(found[name]["adopted"] for name in before)
            assert "adopted: still running from an earlier supervisord" in box.look().stdout
            box.settled()
            box.portfleet("apply")
            assert pids(box) == before
            log = box.boxes.host.run("cat", f"{HOME}/log/supervisord.log").stdout
            last_start = log.rpartition("supervisord started with pid")[2]
            assert "echo-blue" not in last_start, last_start  # no start on a port that is taken, so no crash loop
        assert clients.refused == 0 and clients.lost == [], (clients.report["connects"], clients.lost)
        with load(box) as clients:
            signal(box, before["echo-blue-2"], "KILL")
            ejected = wait_event(box, "ejected", instance="echo-blue-2")
            wait_event(box, "serving", instance="echo-blue-2", after=ejected)
        assert clients.refused == 0, clients.report["connects"]
        assert clients.lost_beside("echo-blue-2") == []
        assert pid_of(box, "echo-blue-2") == pids(box)["echo-blue-2"] != before["echo-blue-2"]
        assert not box.status()["echo-blue-2"]["adopted"]
        box.settled()
        box.portfleet("down", "--yes")
        assert [words for words in box.processes().values() if "portfleet" in words] == []


@pytest.mark.long
def test_a_changed_config_restarts_adopted_instances_too() -> None:
    with fleet_box(NAMED + QUICK) as box:
        before = pids(box)
        kill_supervisor(box)
        box.write(NAMED.replace("environment = {", 'environment = { TURN = "2",') + QUICK)
        box.portfleet("apply")
        after = box.status()
        assert all(after[name]["pid"] != before[name] and not after[name]["adopted"] for name in before)
        box.settled()


@pytest.mark.long
def test_supervisord_and_watcher_killed_together_lose_nothing_either() -> None:
    with fleet_box(NAMED + QUICK) as box:
        before = pids(box)
        with load(box) as clients:
            box.boxes.host.run("kill", "-KILL", str(pid_of(box, "supervisord")), str(pid_of(box, "portfleet-watch")))
            box.portfleet("up")
            assert pids(box) == before
            wait_for("all are adopted", lambda: all(box.status()[name]["adopted"] for name in before))
        assert clients.refused == 0 and clients.lost == [], (clients.report["connects"], clients.lost)
        box.settled()


@pytest.mark.long
def test_one_that_was_started_anew_on_a_full_disk_outlives_supervisord_too() -> None:
    """Its process could not be noted: nothing but the processes themselves tells the next watcher of it."""
    with fleet_box() as box:
        lib, name = f"{HOME}/lib", "echo-blue-2"
        box.boxes.host.run("sh", "-c", f"mkdir -p {lib} && mount -t tmpfs -o size=1m tmpfs {lib}")
        box.write(NAMED + QUICK)
        box.portfleet("up")
        box.boxes.host.run("sh", "-c", f"for i in 1 2 3; do cat /dev/zero > {lib}/fill$i; done", check=False)
        signal(box, box.status()[name]["pid"], "KILL")
        wait_event(box, "serving", instance=name, after=wait_event(box, "ejected", instance=name))
        before = pids(box)
        with load(box) as clients:
            kill_supervisor(box)
            wait_event(box, "adopted", instance=name)
            assert pids(box) == before
        assert clients.refused == 0 and clients.lost == [], (clients.report["connects"], clients.lost)
        signal(box, before[name], "KILL")
        wait_for(
            "it serves below the next one", lambda: box.status()[name]["slots"] and not box.status()[name]["adopted"]
        )
        assert events(box, "ending-remains") == []
        box.boxes.host.run("sh", "-c", f"rm {lib}/fill*")
        again = str(wait_for("it has a process", lambda: pids(box).get(name)))
        noted = box.boxes.host.path(f"{lib}/processes.json")
        wait_for("it is noted", lambda: noted.exists() and again in noted.read_text())


@pytest.mark.both_planes
def test_a_watcher_that_is_all_that_is_left_brings_the_fleet_back() -> None:
    """All else may end at once, as where memory has run out. The canary that was under way ends with its death."""
    with operated() as box:
        box.portfleet("cutover", "echo", "--release", "v2", "--canary", "25%", "--every", "60s", "--no-wait")
        wait_for("it is a canary", lambda: phase(box).startswith("canary"))
        before, watcher = pids(box), pid_of(box, "portfleet-watch")
        others = [str(pid) for pid in box.processes() if pid not in (1, watcher)]
        box.boxes.host.run("sh", "-c", f"kill -STOP {' '.join(others)}; kill -KILL {' '.join(others)}", check=False)
        taken = wait_event(box, "supervisord-back", count=1)
        wait_event(box, "watching", after=taken)

        def anew() -> bool:
            now = pids(box)
            return all(now.get(name) not in (None, before[name]) for name in before if "-blue-" in name)

        wait_for("blue runs again", anew)
        box.portfleet("cancel", "echo", check=False)  # it may have ended: the canary has died
        wait_for("blue serves", lambda: slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048})
        box.settled()  # no green one is left, whether the watcher had started it again or not


@pytest.mark.long
def test_a_supervisord_that_was_started_by_hand_over_adopted_instances_is_told() -> None:
    """Whoever starts supervisord himself has it start programs whose ports are taken: the watcher ends that."""
    with fleet_box(NAMED + QUICK) as box:
        before = pids(box)
        with load(box) as clients:
            box.boxes.host.run("kill", "-KILL", str(pid_of(box, "supervisord")), str(pid_of(box, "portfleet-watch")))
            box.boxes.host.run(_SUPERVISORD, "-c", f"{HOME}/lib/supervisord.conf")
            wait_event(box, "watching", count=2)
            for name in before:
                wait_event(box, "adopted", instance=name)
            wait_for("supervisord has forgotten them", lambda: all(box.status()[n]["adopted"] for n in before))
            assert pids(box) == before
        assert clients.refused == 0 and clients.lost == [], (clients.report["connects"], clients.lost)
        box.settled()


@pytest.mark.long
def test_supervisord_that_dies_again_and_again_is_started_again() -> None:
    with fleet_box(NAMED + QUICK) as box, load(box) as clients:
        before = pids(box)
        for number in (1, 2, 3):
            signal(box, pid_of(box, "supervisord"), "KILL")
            back = wait_event(box, "supervisord-back", count=number)
            wait_event(box, "watching", after=back)
        assert pids(box) == before
    assert clients.refused == 0 and clients.lost == [], (clients.report["connects"], clients.lost)


def test_a_fleet_that_is_taken_down_when_its_supervisord_has_died_does_not_come_back() -> None:
    with fleet_box(NAMED + QUICK) as box:
        signal(box, pid_of(box, "supervisord"), "KILL")
        box.portfleet("down", "--yes")
        assert [words for words in box.processes().values() if "portfleet" in words] == []
        assert "portfleet" not in box.boxes.host.run("nft", "list", "tables").stdout


def test_what_is_watched_is_known_though_what_was_noted_is_removed() -> None:
    """Of redis no environment tells whose it is: it writes its title there."""
    with fleet_box(REDIS) as box:
        before = pids(box)
        with dialled(box.boxes.clients, (HOST4, 6000), [client4(number) for number in range(20)]) as held:
            kill_supervisor(box)
            wait_for("all are adopted", lambda: all(box.status()[name]["adopted"] for name in before))
            box.boxes.host.run("sh", "-c", f"rm -f {HOME}/lib/processes.json")
            noted = box.boxes.host.path(f"{HOME}/lib/processes.json")
            wait_for("they are noted again", lambda: noted.exists() and "kv-blue-4" in noted.read_text())
            assert pids(box) == before and events(box, "ejected") == []
            for connection in held:
                connection.sendall(b"PING\r\n")
                assert connection.recv(7) == b"+PONG\r\n"
