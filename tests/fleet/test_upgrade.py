"""portfleet replaced under a running fleet: its packages, and its interpreter, are away for some seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import portfleet
from support.fleet_box import FleetBox, fleet_box
from support.sandbox import wait_for
from support.watched import NAMED, QUICK, load, pid_of, signal, wait_event

#: What an upgrade takes away: the tool itself, what it depends on, the programs that are started.
_PARTS = (
    Path(portfleet.__path__[0]),
    Path(next(path for path in sys.path if path.endswith("site-packages"))),
    Path(sys.executable).parent,
)
#: Seconds for which they are away: supervisord gives up a program of its own kind after seven.
_AWAY = 9.0


@contextmanager
def away(box: FleetBox) -> Iterator[None]:
    """Hide all parts from the processes of the box, until the block ends."""
    for part in _PARTS:
        box.boxes.host.run("mount", "-t", "tmpfs", "none", str(part))
    try:
        yield
    finally:
        for part in _PARTS:
            box.boxes.host.run("umount", str(part))


@pytest.mark.long
def test_an_upgrade_costs_no_ejection_and_no_watcher() -> None:
    with fleet_box(NAMED + QUICK) as box:
        supervisord, watcher = pid_of(box, "supervisord"), pid_of(box, "portfleet-watch")
        assert [words for words in box.processes().values() if words.endswith(" watch --wait")]
        victims = {name: box.status()[name]["pid"] for name in ("echo-blue-2", "echo-blue-3")}
        with load(box) as clients:
            with away(box):
                began = time.monotonic()
                signal(box, victims["echo-blue-2"], "KILL")
                wait_event(box, "ejected", instance="echo-blue-2")
                signal(box, watcher, "KILL")
                wait_for("the packages were away long enough", lambda: time.monotonic() - began > _AWAY)
                assert not [words for words in box.processes().values() if words.endswith(" watch --wait")]
            wait_for("another watcher", lambda: pid_of(box, "portfleet-watch") not in (0, watcher), seconds=30)
            wait_for("all is well", lambda: box.look("-q").returncode == 0, seconds=40)
            signal(box, victims["echo-blue-3"], "KILL")
            wait_event(box, "ejected", instance="echo-blue-3")
        assert clients.refused == 0 and clients.lost_beside("echo-blue-2", "echo-blue-3") == []
        assert pid_of(box, "supervisord") == supervisord
