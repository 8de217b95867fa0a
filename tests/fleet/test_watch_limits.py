"""Limits that end in clients turned away without a word are seen and named, with what raises them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.fleet_box import FleetBox, fleet_box
from support.sandbox import client4, wait_for
from support.watched import NAMED, QUICK, events, load, wait_event, watch_status

_FILL = str(Path(__file__).parents[1] / "support" / "fill_conntrack.py")


def warnings(box: FleetBox) -> dict[str, dict[str, str]]:
    """Return what `status --json` warns of, by name."""
    found = json.loads(box.look("--json").stdout)["warnings"]
    return {entry["name"]: entry for entry in found}


@pytest.mark.long
def test_a_full_connection_table_is_named_and_nobody_is_ejected_for_it() -> None:
    with fleet_box(NAMED + QUICK) as box:
        with load(box, held=50, connects=20, interval=0.2) as clients:
            filling = box.boxes.host.popen(sys.executable, _FILL, "2")
            wait_event(box, "warning", about="conntrack", seconds=60)
            _, said = filling.communicate(timeout=60)
            assert filling.returncode == 0, said
            found = warnings(box)["conntrack"]
            assert "sysctl -w net.netfilter.nf_conntrack_max=" in found["hint"]
            assert "new connections were dropped in the last minute" in found["text"]
            words = box.look().stdout
            assert "warning: conntrack holds" in words and found["hint"] in words
            assert events(box, "ejected") == []
        # Dropped SYNs are sent again after 1 and 3 s; the table was full for 2.
        assert clients.refused == 0 and clients.lost == [], (clients.report["connects"], clients.lost)


@pytest.mark.long
def test_an_instance_near_its_limit_of_descriptors_is_named() -> None:
    with fleet_box() as box:
        box.write(NAMED.replace("instances = 4", "instances = 1"))
        box.portfleet("up")
        name, pid = "descriptors:echo-blue-1", box.status()["echo-blue-1"]["pid"]
        with load(box, held=60, connects=1):
            assert name not in warnings(box)
            box.boxes.host.run("prlimit", "--pid", str(pid), "--nofile=75:75")
            wait_event(box, "warning", about=name)
            found = warnings(box)[name]
            assert "of 75 descriptors" in found["text"] and "LimitNOFILE" in found["hint"]
        wait_event(box, "warning-over", about=name)
        wait_for("it is warned of no longer", lambda: name not in warnings(box))


@pytest.mark.long
def test_an_instance_that_is_full_is_named_and_stays_in() -> None:
    with fleet_box() as box:
        box.write(NAMED.replace('"{port}", ', '"{port}", "--max-connections", "30", ').replace("= 4", "= 2") + QUICK)
        box.portfleet("up")
        with load(box, held=80, connects=1):  # those over the limit wait in the backlog
            name = "connections:echo-blue-1"
            wait_event(box, "warning", about=name)
            assert "30 of 30 connections" in warnings(box)[name]["text"]
            assert events(box, "ejected", "kept") == []
            assert watch_status(box)["out"] == {}


@pytest.mark.long
def test_a_full_disk_below_run_stops_no_ejection() -> None:
    with fleet_box() as box:
        host = box.boxes.host
        host.run("sh", "-c", "mkdir -p /run/pf/run && mount -t tmpfs -o size=1m tmpfs /run/pf/run")
        box.write(NAMED + QUICK)
        box.portfleet("up")
        sources = [client4(number) for number in range(100)]
        host.run("sh", "-c", "cat /dev/zero > /run/pf/run/ballast 2>/dev/null || true")
        host.run("kill", "-STOP", str(box.status()["echo-blue-1"]["pid"]))
        wait_event(box, "ejected", instance="echo-blue-1")
        wait_event(box, "cannot-write")
        answers = wait_for("others answer all", lambda: box.who(sources))
        assert "echo-blue-1" not in answers.values()
        host.run("rm", "/run/pf/run/ballast")
        host.run("kill", "-CONT", str(box.status()["echo-blue-1"]["pid"]))
        ejected = events(box, "ejected", instance="echo-blue-1")[-1]
        wait_event(box, "serving", instance="echo-blue-1", after=ejected)
        box.settled()
