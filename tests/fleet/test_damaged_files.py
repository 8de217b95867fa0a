"""Files of lib/ that are damaged, foreign or odd: named, put right, and never in the way of other services."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fleet_box import HOME, REDIS, FleetBox, fleet_box, on_plane
from support.sandbox import wait_for
from support.watched import NAMED, QUICK, pid_of, signal, wait_event

#: Shell commands, run in lib/, that damage what `up` has written.
DAMAGE = {
    "garbage": "echo 'no [ ini' > programs/echo-blue-1.conf",
    "no text": "printf '\\377\\376' > programs/echo-blue-1.conf",
    "an expansion": "sed -i 's/^command=/command=%(nothing)s /' programs/echo-blue-1.conf",
    "a directory": "rm programs/echo-blue-1.conf && mkdir programs/echo-blue-1.conf",
    "a foreign one": "printf '[program:mine]\\ncommand=/bin/sleep 9\\n' > programs/mine.conf",
    "supervisord.conf": "echo '[[[' > supervisord.conf",
    "no supervisord.conf": "rm supervisord.conf",
    "applied.toml": "echo '[[[' > applied.toml",
}


def pids(box: FleetBox) -> dict[str, int]:
    """Return the processes of the instances that run."""
    return {name: found["pid"] for name, found in box.status().items() if found["pid"]}


@pytest.mark.long
def test_a_damaged_file_stops_no_verb_and_restarts_nothing() -> None:
    with fleet_box(NAMED + QUICK) as box:
        before = pids(box)
        for how, damage in DAMAGE.items():
            box.boxes.host.run("sh", "-c", f"cd {HOME}/lib && {damage}")
            planned = box.portfleet("plan")
            applied = box.portfleet("apply")
            if "programs/" in damage:
                name = "mine.conf" if "foreign" in how else "echo-blue-1.conf"
                assert name in planned.stdout and name in applied.stderr, (how, planned, applied)
            assert box.portfleet("plan", "--check").stdout.startswith("nothing to do"), how
            assert pids(box) == before, how
        asides = box.boxes.host.run("sh", "-c", f"ls {HOME}/lib/programs | grep aside").stdout.split()
        assert asides == ["echo-blue-1.conf.aside-1", "mine.conf.aside-1"]


@pytest.mark.long
def test_up_and_a_new_supervisord_come_through_damaged_files_too() -> None:
    with fleet_box(NAMED + QUICK) as box:
        wait_event(box, "watching")
        box.settled()
        before = pids(box)
        for how in ("garbage", "a foreign one", "supervisord.conf"):
            box.boxes.host.run("sh", "-c", f"cd {HOME}/lib && {DAMAGE[how]}")
        signal(box, pid_of_supervisord(box), "KILL")
        back = wait_event(box, "supervisord-back")
        wait_event(box, "watching", after=back)
        box.settled()
        assert pids(box) == before
        box.portfleet("down", "--yes")
        for damage in DAMAGE.values():
            box.boxes.host.run("sh", "-c", f"cd {HOME}/lib && {damage}")
        box.portfleet("up")
        assert len(pids(box)) == 4
        for damage in DAMAGE.values():
            box.boxes.host.run("sh", "-c", f"cd {HOME}/lib && {damage}")
        box.portfleet("down", "--yes")


@pytest.mark.long
def test_an_expansion_of_supervisords_in_a_value_reaches_the_instance_and_no_other_service() -> None:
    odd = NAMED.replace("environment = {", 'environment = { ODD = "%(here)s %%(here)s %(x)s 100%", LAST = "%",')
    with fleet_box(odd + QUICK + REDIS) as box:
        names = {"echo-blue-1", "kv-blue-1"}
        wait_for("both are ready", lambda: {box.status()[name]["state"] for name in names} == {"ready"})
        found = box.status()
        environ = box.boxes.host.run("cat", f"/proc/{found['echo-blue-1']['pid']}/environ").stdout.split("\0")
        assert {"ODD=%(here)s %%(here)s %(x)s 100%", "LAST=%"} <= {*environ}


def pid_of_supervisord(box: FleetBox) -> int:
    """Return supervisord's process, by its pidfile."""
    return pid_of(box, "supervisord")


@pytest.fixture(scope="module")
def up() -> Iterator[FleetBox]:
    """Return a fleet that is up, and can be taken down whatever has become of its files."""
    with fleet_box(NAMED + QUICK) as box:
        yield box
        box.portfleet("down", "--yes")


@pytest.mark.parametrize("name", ["journal.json", "applied.toml", "../run/out.json", "processes.json",
                                  "../run/warnings.json", "../run/rules.json"])  # fmt: skip
def test_a_state_file_that_nests_without_end_gives_words_or_nothing(up: FleetBox, name: str) -> None:
    before = pids(up)
    watcher = pid_of(up, "portfleet-watch")
    path = up.boxes.host.path(f"{HOME}/lib/{name}")
    was = path.read_text()
    path.write_text("[" * 100_000)
    _look_and_change(up)
    assert pid_of(up, "portfleet-watch") == watcher
    assert {name: pid for name, pid in pids(up).items() if name != "echo-blue-4"}.items() <= before.items()
    path.write_text(was)
    up.portfleet("undrain", "echo/4", check=False)
    up.portfleet("apply")


@pytest.mark.long
@pytest.mark.parametrize("name", ["fleet.json", "services/echo.json"])
def test_a_state_file_of_haproxys_plane_that_nests_without_end_is_written_anew(name: str) -> None:
    with on_plane("haproxy"), fleet_box(NAMED + QUICK) as box:
        before = pids(box)
        watcher = pid_of(box, "portfleet-watch")
        path = box.boxes.host.path(f"{HOME}/run/haproxy/{name}")
        assert path.exists()
        path.write_text("[" * 100_000)
        _look_and_change(box)
        assert pid_of(box, "portfleet-watch") == watcher
        assert {name: pid for name, pid in pids(box).items() if name != "echo-blue-4"}.items() <= before.items()
        assert not path.read_text().startswith("[[")


def _look_and_change(box: FleetBox) -> None:
    """Run commands of every kind: each does what it says or has words for it."""
    for words in (["status"], ["plan"], ["explain", "echo", "198.18.0.1"], ["doctor"], ["history"], ["lock"],
                  ["drain", "echo/4"], ["apply"]):  # fmt: skip
        done = box.portfleet(*words, check=False)
        assert "Traceback" not in done.stderr, (words, done.stderr)
        assert done.returncode in (0, 1, 2) and (done.returncode == 0 or done.stderr), (words, done)
