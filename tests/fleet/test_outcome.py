"""apply, up and down tell programs what they did: one object on stdout, the same keys every time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.fleet_box import ECHO, FleetBox, fleet_box

TWO = ECHO.replace("instances = 4", "instances = 2")
#: Never ready: it is told its port and listens nowhere.
DEAF = """
[service.deaf]
listen = [":6000"]
command = ["sh", "-c", "sleep 600", "{port}"]
ports = "6100-6101"
instances = 1
start_timeout = "1s"
"""
KEYS = ["ok", "code", "steps", "serving", "failed", "notes", "undo", "ended"]
ECHOES = ["echo-blue-1", "echo-blue-2"]


def outcome(fleet: FleetBox, *words: str) -> dict[str, Any]:
    """Run a verb with --json and return what it printed, which agrees with its exit status."""
    done = fleet.portfleet(*words, "--json", check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    assert list(found) == KEYS
    assert (found["code"], found["ok"]) == (done.returncode, done.returncode == 0)
    return found


@pytest.mark.long
def test_a_programs_view_of_up_apply_and_down() -> None:
    with fleet_box() as fleet:
        fleet.write(TWO)
        up = outcome(fleet, "up")
        assert up["ok"] and up["serving"] == ECHOES and up["undo"] == "portfleet down"
        assert up["steps"][0] == "start supervisord" and up["steps"][-1] == "open :7000 of echo"

        again = outcome(fleet, "apply")
        assert (again["ok"], again["steps"], again["undo"]) == (True, [], None), "nothing was to be done"
        assert (again["serving"], again["failed"], again["notes"], again["ended"]) == (ECHOES, {}, [], 0)

        fleet.write(TWO + DEAF)
        failed = outcome(fleet, "apply")
        assert failed["code"] == 4 and failed["serving"] == ECHOES
        assert list(failed["failed"]) == ["deaf-blue-1"]
        assert "does not listen on port 6100" in failed["failed"]["deaf-blue-1"]
        assert "start deaf-blue-1" in failed["steps"]

        down = outcome(fleet, "down", "deaf")
        assert down["serving"] == ECHOES and down["undo"] == "portfleet up deaf"
        assert down["steps"] == ["close deaf to clients", "stop deaf-blue-1", "remove the rules of deaf"]
        already = outcome(fleet, "down", "deaf")
        assert already["steps"] == [] and already["serving"] == ECHOES
        assert already["notes"][0].startswith("deaf: already down by root@")
        noted = outcome(fleet, "apply")
        assert noted["ok"] and noted["notes"][0].startswith("deaf: down by root@")

        asked = fleet.portfleet("plan", "--text", "--json", check=False)
        assert json.loads(asked.stdout)["transactions"] == []

        whole = outcome(fleet, "down")
        stopped = f"stop {', '.join(ECHOES)}"
        assert whole["steps"] == ["stop the watcher", stopped, "remove the rules", "end supervisord"]
        assert whole["serving"] == [] and whole["undo"] == "portfleet up"
        planned = json.loads(fleet.portfleet("plan", "--text", "--json").stdout)["transactions"]
        assert planned and all(one["step"] and "inet portfleet" in one["text"] for one in planned)


def test_a_refusal_prints_no_object() -> None:
    with fleet_box() as fleet:
        fleet.write(TWO)
        assert outcome(fleet, "down")["notes"] == ["nothing is up"]
        for words, code in ((("apply",), 1), (("up", "--foreground"), 2), (("down", "nope"), 2)):
            refused = fleet.portfleet(*words, "--json", check=False)
            assert (refused.returncode, refused.stdout) == (code, "")
            assert "hint: " in refused.stderr
