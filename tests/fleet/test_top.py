"""`portfleet top` beside real clients: whose counters move, whose do not, and what is not there."""

from __future__ import annotations

import json

from support.fleet_box import ECHO, HOME, PORTFLEET, REDIS, fleet_box
from support.sandbox import wait_for
from support.watched import load


def test_top_shows_what_clients_do() -> None:
    with fleet_box(ECHO.replace("whoami", "echo") + REDIS) as fleet:
        fleet.portfleet("down", "kv", "--yes")
        with load(fleet, held=40, connects=50) as clients:
            lines = fleet.portfleet("top", "--json", "--every", "500ms", "-n", "3").stdout.splitlines()
            shown = fleet.portfleet("top", "echo", "--every", "500ms", "-n", "1").stdout
        fleet.portfleet("up")
        idle = json.loads(fleet.portfleet("top", "kv", "--json", "--every", "500ms", "-n", "1").stdout)
        wrong = fleet.portfleet("top", "nosuch", check=False)

    assert (len(lines), clients.lost, clients.refused) == (3, [], 0)
    echo, kv = json.loads(lines[-1])["services"]
    assert (echo["live"], kv["instances"]) == ("blue", []) and "root" in kv["down"]
    assert len(echo["instances"]) == 4 and all(one["rates"]["requests"] > 0 for one in echo["instances"])
    assert sum(one["connections"] for one in echo["instances"]) >= 40
    assert sum(one["rates"]["accepts"] for one in echo["instances"]) > 0
    assert all(0 < one["rates"]["p50"] <= one["rates"]["p99"] for one in echo["instances"])
    assert "echo-blue-4" in shown and "kv" not in shown
    redis = [one["rates"] for one in idle["services"][0]["instances"]]
    assert len(redis) == 4 and all(one["requests"] is None and one["memory"] > 1_000_000 for one in redis)
    assert (wrong.returncode, "services are: echo, kv" in wrong.stderr) == (2, True)


def test_ctrl_c_ends_it_well() -> None:
    with fleet_box(ECHO) as fleet:
        top = fleet.boxes.host.popen(PORTFLEET, "--home", HOME, "top", "--every", "100ms")
        out = top.stdout
        assert out is not None
        wait_for("it shows something", lambda: "echo-blue-1" in out.readline())
        fleet.boxes.host.run("pkill", "-INT", "-f", "portfleet .* top ")
        assert (top.wait(10), "Traceback" in out.read()) == (0, False)
