"""A disk without space, or without inodes: every verb ends with words, what serves goes on, and `down` works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from portfleet import commands as verbs
from support.fleet_box import HOME, FleetBox, fleet_box
from support.sandbox import client4, wait_for
from support.watched import NAMED, QUICK, pid_of, signal, watch_status

#: What `export` printed before, on another disk.
_EXPORTED = "/run/echo.json"
#: Every verb, as an operator may try it in need; the watcher is one, and its own disk is full.
VERBS = (
    ["status"], ["status", "--json"], ["plan"], ["check"], ["explain", "echo", "198.18.0.1"], ["lock"], ["history"],
    ["doctor"], ["logs", "echo/1"], ["top", "-n", "1", "--every", "200ms"], ["events"], ["metrics"], ["export"],
    ["completion", "bash"], ["forward", "show"], ["unit"], ["init"], ["watch"], ["relocate", "check", "echo/1"],
    ["apply"], ["apply", "--undo"], ["up"], ["signal", "echo", "CONT"], ["drain", "echo/4"], ["undrain", "echo/4"],
    ["maint", "echo/4"], ["scale", "echo", "3"], ["restart", "echo/4"], ["pin", "echo", "198.18.0.9", "1"],
    ["unpin", "echo", "198.18.0.9"], ["deny", "echo", "198.18.9.8"], ["undeny", "echo", "198.18.9.8"],
    ["import", _EXPORTED], ["cutover", "echo"], ["rollback", "echo"], ["rebalance", "echo"], ["cancel", "echo"],
    ["migrate", "echo/1", "echo/2"], ["migrate", "echo/1", "192.0.2.77", "--live"],
    ["evacuate", "192.0.2.77"], ["down", "echo", "--yes"],
)  # fmt: skip
#: How a file system of its own gets full: options of its mount, and the command that fills it.
FULL = {
    "space": ("size=2m", f"cat /dev/zero > {HOME}/fill 2>/dev/null; cat /dev/zero > {HOME}/fill2 2>/dev/null"),
    "inodes": ("size=64m,nr_inodes=200", f"i=0; while : > {HOME}/fill-$i; do i=$((i+1)); done 2>/dev/null"),
}


@contextmanager
def small_disk(how: str) -> Iterator[FleetBox]:
    """Return a fleet whose home is on a small file system."""
    with fleet_box() as box:
        box.boxes.host.run("sh", "-c", f"mkdir -p {HOME} && mount -t tmpfs -o {FULL[how][0]} tmpfs {HOME}")
        box.write(NAMED + QUICK)
        box.portfleet("up")
        box.settled()
        yield box


def test_every_verb_is_tried() -> None:
    assert {words[0] for words in VERBS} == {*verbs.VERBS}


@pytest.mark.long
@pytest.mark.parametrize("how", FULL)
def test_a_full_disk_ends_every_verb_with_words_and_down_works(how: str) -> None:
    with small_disk(how) as box:
        box.portfleet("pin", "echo", "198.18.0.7", "1")  # so that there is something to import
        box.boxes.host.path(_EXPORTED).write_text(box.portfleet("export", "echo").stdout)
        box.portfleet("unpin", "echo", "198.18.0.7")
        watcher = pid_of(box, "portfleet-watch")
        box.boxes.host.run("sh", "-c", FULL[how][1], check=False)
        for words in VERBS:
            began = time.monotonic()
            done = box.portfleet(*words, check=False)
            assert time.monotonic() - began < 60, words
            assert "Traceback" not in done.stderr and done.returncode < 7, (words, done)
            assert done.returncode in (0, 6) or done.stderr or done.stdout, (words, done)
        assert pid_of(box, "portfleet-watch") == watcher
        pid = box.status()["echo-blue-1"]["pid"]
        if pid:
            signal(box, pid, "STOP")
            wait_for("the hung is out", lambda: "echo-blue-1" in watch_status(box)["out"])
            assert "echo-blue-1" not in box.who([client4(number) for number in range(30)]).values()
        unexpected = [entry for entry in watch_status(box)["warnings"] if entry["name"].startswith("unexpected")]
        assert unexpected == []
        box.portfleet("down", "--yes")
        assert [words for words in box.processes().values() if "portfleet" in words] == []
        assert box.rules() == ""
        box.boxes.host.run("sh", "-c", f"rm -f {HOME}/fill*")
        box.portfleet("up")
        assert {found["state"] for name, found in box.status().items() if "blue" in name} <= {"ready", "drained"}
