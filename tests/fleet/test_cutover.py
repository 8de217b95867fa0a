"""Cutovers and rollbacks from outside: clients that ask all the time notice nothing, whatever the new release does."""

from __future__ import annotations

import json
import re

import pytest

from support.fleet_box import FleetBox
from support.operated import ANY_P99, TOLD, counts_its_sockets, follow, history, last_releases, operated, slots
from support.sandbox import wait_for
from support.watched import Load, load

pytestmark = pytest.mark.both_planes


def unharmed(clients: Load) -> None:
    """No connect was refused or reset, no held connection ended, no reply was lost, doubled or another's."""
    connects = clients.report["connects"]
    assert (connects["refused"], connects["reset"], connects["errors"]) == (0, 0, [])
    assert clients.lost == []
    assert connects["done"] > 0


@pytest.mark.long
def test_cutovers_and_rollbacks_under_load() -> None:
    with operated() as box:
        with load(box, held=100) as clients:
            done = box.portfleet("cutover", "echo", "--release", "v2").stdout
            moved = re.search(r"(\d+) connections were handed off", done)
            assert moved and 100 <= int(moved[1]) < 200, done  # with short ones of that moment
            assert "Undo with: portfleet rollback echo" in done
            for phase in ("ready", "switch", "move"):
                assert f"{phase} " in done  # its time is told
            box.portfleet("rollback", "echo")
            box.portfleet("cutover", "echo", "--release", "v3")
        unharmed(clients)
        assert last_releases(clients.report) == {"v3": 100}
        assert {held["seen"][0].partition("/")[2] for held in clients.report["held"]} == {"v1"}
        box.settled()
        assert box.portfleet("cutover", "echo", "--release", "v3").stdout.startswith("green already runs v3 since 20")
        # By number: what was live when the first cutover had ended.
        box.portfleet("rollback", "echo", "--to", str(history(box)[0]["number"]))
        assert {found["release"] for found in history(box)[-1:]} == {"v2"}


@pytest.mark.long
def test_after_three_cutovers_counts_are_the_sockets_and_a_fourth_release_starts_on_the_first_ports() -> None:
    with operated() as box:
        with load(box, held=60, connects=20) as clients:
            first = {found["port"] for found in box.status().values() if found["colour"] == "blue"}
            for release in ("v2", "v3", "v4"):
                box.portfleet("cutover", "echo", "--release", release)
            wait_for(
                "counts are equal",
                lambda: counts_its_sockets(box),
            )
            assert sum(f["connections"] for f in box.status().values() if f["colour"] == "green") >= 60
            done = json.loads(box.portfleet("cutover", "echo", "--release", "v5", "--json").stdout)
            assert done["ok"] and done["release"] == "v5"
            assert {f["port"] for f in box.status().values() if f["slots"]} == first
        unharmed(clients)


@pytest.mark.long
def test_a_new_release_that_does_not_come_up_changes_nothing() -> None:
    with operated() as box:
        box.write(TOLD.replace('"8s"', '"3s"'))  # for as long are the second and the third waited for, in vain
        box.portfleet("apply")
        before = slots(box)
        with load(box, held=50) as clients:
            for release, words in (
                ("crash", "the new release has a bug"),
                ("hang", "did not become ready"),
                ("slow", "did not become ready"),
            ):
                failed = box.portfleet("cutover", "echo", "--release", release, check=False)
                assert failed.returncode == 4 and words in failed.stderr and "blue serves" in failed.stderr, failed
                assert slots(box) == before
                assert [n for n, f in box.status().items() if f["colour"] == "green" and f["pid"]] == []
        unharmed(clients)
        assert last_releases(clients.report) == {"v1": 50}
        assert "exit status 3" in history(box)[0]["outcome"]
        box.settled()


def test_a_new_release_that_dies_of_its_first_clients_is_rolled_back() -> None:
    with operated() as box:
        before = slots(box)
        with load(box, held=0, connects=400) as clients:
            failed = box.portfleet("cutover", "echo", "--release", "die", "--keep", "0", check=False)
            assert failed.returncode == 1 and slots(box) == before, failed
        assert "rolled back: " in failed.stderr and "of the new release " in failed.stderr
        assert {f["colour"] for f in box.status().values() if f["pid"]} == {"blue"}
        assert clients.refused == 0  # those that had got through to one that died were reset
        with load(box, held=20) as clients:
            box.settled()
        unharmed(clients)


def canary(box: FleetBox, release: str) -> str:
    """Cut over with a canary that finds a fault; gives what is said on stderr."""
    words = ("cutover", "echo", "--release", release, "--canary", "25%", "--then", "100%", "--every", "20s")
    failed = box.portfleet(*words, "--max-errors", "1%", "--max-p99", "3x", check=False)
    assert failed.returncode == 1, failed
    return failed.stderr


@pytest.mark.timed
def test_a_canary_with_a_fault_rolls_back_by_itself() -> None:
    with operated() as box:
        before = slots(box)
        with load(box, held=40) as clients:
            slow = canary(box, "lag-1")
        assert "rolled back at 25 %: its p99 is" in slow and "blue serves" in slow
        unharmed(clients)
        with load(box, held=40) as clients:
            broken = canary(box, "errors-1")
        assert "of its requests fail, 1 % may" in broken
        # A handler that raises ends its connection: those of the canary's share, which is ten of them on average.
        assert all("closed by the server" in held["error"] for held in clients.lost) and len(clients.lost) <= 20
        assert clients.refused == 0 and slots(box) == before


def green_slots(box: FleetBox) -> int:
    return sum(count for name, count in slots(box).items() if "green" in name)


def test_a_canary_goes_up_step_by_step() -> None:
    with operated() as box:
        with load(box, held=40) as clients:
            # Longer than a busy machine takes to look: the share is not to have gone by unseen.
            words = ("cutover", "echo", "--release", "v2", "--canary", "25%", "--every", "6s", *ANY_P99)
            box.portfleet(*words, "--no-wait")
            wait_for("the canary has its share", lambda: 0.2 * 4096 < green_slots(box) < 0.3 * 4096)
            said = follow(box)
            assert {name.split("-")[1] for name in slots(box)} == {"green"}, said
        unharmed(clients)
        assert last_releases(clients.report) == {"v2": 40}


@pytest.mark.long
def test_an_unfit_hand_off_says_what_holds() -> None:
    other = TOLD.replace('"support.told:told"]', '"support.told:told", "--framing", "line"]')
    with operated(other) as box:
        with load(box, held=30) as clients:
            command = "portfleet-daemon --port {port} --handler support.told:told --framing netstring"
            failed = box.portfleet("cutover", "echo", "--release", "v2", "--command", command, check=False)
            assert failed.returncode in (1, 4), failed
        assert clients.lost == []


@pytest.mark.long
def test_a_release_that_hangs_only_when_it_is_asked_is_rolled_back() -> None:
    unprobed = TOLD.partition("[service.echo.probe]")[0]
    with operated(unprobed) as box:
        with load(box, held=10, connects=1) as clients:
            failed = box.portfleet("cutover", "echo", "--release", "hang", check=False)
            assert failed.returncode == 1 and "rolled back" in failed.stderr and "blue serves" in failed.stderr, failed
        assert {name.split("-")[1] for name in slots(box)} == {"blue"}
        assert len(clients.lost) <= 4  # what a hanging process has taken cannot be saved: one each, and who came anew
        box.settled()


@pytest.mark.long
def test_a_kept_colour_ends_in_time_and_rollback_starts_it_again() -> None:
    with operated() as box:
        with load(box, held=20) as clients:
            box.portfleet("cutover", "echo", "--release", "v2", "--keep", "1s")
            wait_for("blue is stopped", lambda: box.status()["echo-blue-1"]["pid"] is None)
            box.portfleet("rollback", "echo")
            box.portfleet("cutover", "echo", "--release", "v2", "--keep", "0")
            assert box.status()["echo-blue-1"]["pid"] is None
        unharmed(clients)
        assert last_releases(clients.report) == {"v2": 20}
