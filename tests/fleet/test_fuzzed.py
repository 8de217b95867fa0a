"""A service whose instances answer with damage from a seed, beside one whose instances die: none waits for the other.

PORTFLEET_FUZZ_SEED and PORTFLEET_FUZZ_NUMBER (`script/soak fuzz`) make it another, and longer.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from pathlib import Path

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box
from support.watched import NAMED, QUICK, events, load, pid_of, wait_event

SEED, NUMBER = os.environ.get("PORTFLEET_FUZZ_SEED", "1"), int(os.environ.get("PORTFLEET_FUZZ_NUMBER", "300"))
_DAEMON = Path(__file__).parents[1] / "support" / "fuzzed_daemon.py"
_ODD = f"{HOME}/odd"
#: Kills a process and prints when.
_KILL = "import os, sys, time; now = time.time(); os.kill(int(sys.argv[1]), 9); print(now)"
#: All that look at instances or ask them something.
_VERBS = (
    ("status",), ("top", "-n", "1", "--every", "200ms"), ("plan",), ("apply", "--dry-run"), ("metrics",),
    ("drain", "odd/1", "--force"), ("undrain", "odd/1"),
    ("drain", "odd/2", "--handoff", "--force"), ("undrain", "odd/2"),
)  # fmt: skip


def killed(box: FleetBox, number: int) -> float:
    """Kill an instance of the other service; return the seconds until new connections went elsewhere."""
    name = f"echo-blue-{number}"
    before, pid = len(events(box, "ejected", instance=name)), box.status()[name]["pid"]
    at = float(box.boxes.host.run("/usr/bin/python3", "-c", _KILL, str(pid)).stdout)
    ejected = wait_event(box, "ejected", instance=name, count=before + 1)
    wait_event(box, "serving", instance=name, after=ejected)
    return ejected.at - at


@pytest.mark.long
@pytest.mark.timed
def test_damaged_answers_cost_their_service_alone() -> None:
    odd = f"""
[service.odd]
listen = [":7200"]
command = ["{sys.executable}", "{_DAEMON}", "{{port}}", "{_ODD}", "{SEED}"]
ports = "7300-7319"
instances = 8
[service.odd.probe]
interval = "100ms"
timeout = "300ms"
"""
    with fleet_box(NAMED + QUICK + odd) as box:
        box.settled()
        watcher = pid_of(box, "portfleet-watch")
        folder = box.boxes.host.path(_ODD)
        folder.mkdir()
        given, took, verbs, slowest = 0, list[float](), itertools.cycle(_VERBS), 0.0
        with load(box) as clients:
            while given < NUMBER or len(took) < 8:
                took.append(killed(box, 1 + len(took) % 4))
                words, began = next(verbs), time.monotonic()
                done = box.portfleet(*words, *(["--no-wait"] if words[0] in ("drain", "undrain") else []), check=False)
                slowest = max(slowest, time.monotonic() - began)
                assert "Traceback" not in done.stderr and "\x1b" not in done.stdout + done.stderr, (words, done)
                given = sum(path.stat().st_size for path in folder.iterdir())
        assert clients.refused == 0 and clients.lost_beside(*(f"echo-blue-{n}" for n in (1, 2, 3, 4))) == []
        assert pid_of(box, "portfleet-watch") == watcher and events(box, "unexpected-error") == []
    middle = statistics.median(took)
    print(
        f"control answers of a fleet: {given:,}; {len(took)} ejections of the other service meanwhile within "
        f"{middle * 1000:.0f} ms (median), {max(took) * 1000:.0f} ms (longest); slowest verb {slowest:.1f} s"
    )
    assert middle < 0.05 and slowest < 5, (sorted(took), slowest)
