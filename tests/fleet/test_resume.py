"""Operations outlive the watcher's death at every phase, and a reboot: they are resumed or undone, and say which."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from support.fleet_box import FleetBox
from support.operated import cancelled, die_at, died, history, in_background, operated, phase, reboot, slots
from support.sandbox import wait_for
from support.watched import load

pytestmark = pytest.mark.both_planes

#: Where the watcher is killed, and the verb that is at work there. Run in this order, each ends where the next begins.
KILLS = (
    ("cutover begin", ("cutover", "echo", "--release", "v2")),
    ("rollback switch", ("rollback", "echo")),
    ("cutover switch: changed", ("cutover", "echo", "--release", "v3")),
    ("rollback moving", ("rollback", "echo")),
    ("batch handed off", ("cutover", "echo", "--release", "v4")),
    ("rollback keeping", ("rollback", "echo")),
    ("cutover keeping: changed", ("cutover", "echo", "--release", "v5", "--keep", "0")),
    ("drain moving", ("drain", "echo/1", "--handoff")),
    ("undrain starting", ("undrain", "echo/1")),
    ("maint stopping", ("maint", "echo/2", "--handoff")),
    ("undrain starting", ("undrain", "echo/2")),
    ("batch handed off", ("rebalance", "echo", "--limit", "1.02")),
    ("restart restarting echo-green-2: changed", ("restart", "echo")),
    ("restart evening out", ("restart", "echo")),
    ("scale starting", ("scale", "echo", "3")),
    ("migrate moving", ("migrate", "echo/3", "1")),
    ("migrate moving", ("migrate", "echo/3", "3")),
    ("scale moving", ("scale", "echo", "2")),
    ("scale stopping: changed", ("scale", "echo", "1")),
)

#: … in the short form.
SOME = (
    ("cutover switch: some slots", ("cutover", "echo", "--release", "v2")),
    ("batch handed off", ("rollback", "echo", "--keep", "0")),
    ("drain moving", ("drain", "echo/1", "--handoff")),
    ("undrain starting", ("undrain", "echo/1")),
    ("restart restarting echo-blue-2: changed", ("restart", "echo")),
    ("scale starting", ("scale", "echo", "3")),
    ("scale stopping: changed", ("scale", "echo", "2")),
)


@pytest.mark.full
def test_the_watcher_is_killed_at_every_phase() -> None:
    kill_and_resume(KILLS, {"echo-green-1": 4096})


@pytest.mark.long
def test_the_watcher_is_killed_at_a_phase_of_each_verb() -> None:
    kill_and_resume(SOME, {"echo-blue-1": 2048, "echo-blue-2": 2048})


def kill_and_resume(kills: Sequence[tuple[str, tuple[str, ...]]], end: dict[str, int]) -> None:
    """Kill the watcher at each of ``kills``; every verb is resumed and done, and clients notice nothing."""
    with operated() as box:
        with load(box, held=60, connects=50) as clients:
            for name, words in kills:
                point = name if box.plane == "nftables" else name.replace("some slots", "changed")  # at once there
                die_at(box, point)
                done = box.portfleet(*words, check=False)
                assert done.returncode == 0, (point, words, done)
                assert died(box), (point, words, done)
                assert "resumed at" in history(box)[-1]["outcome"], (point, history(box)[-1])
        assert clients.lost == []
        assert clients.report["connects"]["refused"] == clients.report["connects"]["reset"] == 0
        assert slots(box) == end
        box.settled()


@pytest.mark.long
@pytest.mark.parametrize("point", ["cutover undo", "cutover stopping: changed"])
def test_the_watcher_is_killed_while_it_undoes(point: str) -> None:
    with operated() as box:
        before = slots(box)
        with load(box, held=30, connects=50) as clients:
            die_at(box, point)
            failed = box.portfleet("cutover", "echo", "--release", "crash", check=False)
            assert failed.returncode in (1, 4) and "blue serves" in failed.stderr, failed
            assert "resumed at 'undoing'" in failed.stderr and died(box), failed
        assert clients.lost == [] and slots(box) == before
        box.settled()


REBOOTS = (
    ("cutover begin", ("cutover", "echo", "--release", "v2"), "green"),
    ("rollback moving", ("rollback", "echo"), "blue"),
    ("drain ending", ("drain", "echo/1"), "blue"),
    ("undrain starting", ("undrain", "echo/1"), "blue"),
    ("restart restarting echo-blue-2", ("restart", "echo"), "blue"),
    ("scale starting", ("scale", "echo", "3"), "blue"),
    ("scale stopping", ("scale", "echo", "2"), "blue"),
)


def reboot_at(box: FleetBox, going: subprocess.Popen[str], point: str) -> None:
    """Reboot as soon as the watcher has died at ``point``, on behalf of the verb ``going``."""
    wait_for(f"the watcher died at {point}", lambda: died(box) or going.poll() is not None)
    assert died(box), going.communicate()
    reboot(box)


@pytest.mark.long
def test_the_machine_reboots_in_the_middle() -> None:
    with operated() as box:
        for point, words, colour in REBOOTS:
            die_at(box, point)
            going = in_background(box, *words)
            try:
                reboot_at(box, going, point)
                wait_for(f"{words} has ended", lambda: not phase(box))
            finally:
                going.kill()
                going.communicate()
            last = history(box)[-1]
            assert last["ok"] and "resumed at" in last["outcome"], last
            assert {name.split("-")[1] for name in slots(box)} == {colour}, (words, slots(box))
        box.settled()
        assert slots(box) == {"echo-blue-1": 2048, "echo-blue-2": 2048}


@pytest.mark.long
def test_each_verb_can_be_cancelled_and_is_undone() -> None:
    with operated() as box:
        before = slots(box)
        with load(box, held=40, connects=50) as clients:
            for words, while_in in (
                (("cutover", "echo", "--release", "slow"), "begin"),
                (("cutover", "echo", "--release", "v2", "--canary", "25%", "--every", "60s"), "canary"),
                (("drain", "echo/1"), "ending"),
                (("maint", "echo/2"), "ending"),
                (("migrate", "echo/1", "2", "--drain"), "moving"),
                (("cutover", "echo", "--release", "v2", "--drain"), "moving"),
            ):
                said = cancelled(box, words, while_in)
                assert ": cancelled; " in said and "stays: " not in said, said
                assert slots(box) == before, words
                assert {f["wanted"] for f in box.status().values() if f["colour"] == "blue"} == {"serving"}
        # A cutover by --drain has evicted some by then, on purpose.
        assert clients.refused == 0
        assert all("closed by the server" in held["error"] for held in clients.lost)
        assert box.portfleet("cancel", "echo").stdout == "nothing runs on echo\n"
        box.settled()


@pytest.mark.long
def test_a_restart_that_fails_leaves_nobody_drained() -> None:
    with operated() as box:
        script = '#!/bin/sh\ntest -e /run/pf/bad && exit 3\nexec portfleet-daemon "$@"\n'
        own = "/run/pf/own/portfleet-daemon"
        box.boxes.host.run("sh", "-c", f"mkdir -p /run/pf/own; cat > {own}; chmod +x {own}", text=script)
        command = f"{own} --port {{port}} --handler support.told:told"
        box.portfleet("cutover", "echo", "--release", "v2", "--command", command, "--drain", "--keep", "0")
        box.boxes.host.run("touch", "/run/pf/bad")
        failed = box.portfleet("restart", "echo", check=False)
        assert failed.returncode == 4 and "stopped rolling" in failed.stderr, failed
        assert {f["wanted"] for f in box.status().values() if f["colour"] == "green"} == {"serving"}
        assert slots(box) == {"echo-green-2": 4096}
        box.boxes.host.run("rm", "/run/pf/bad")
        wait_for("it is back", lambda: len(slots(box)) == 2)
