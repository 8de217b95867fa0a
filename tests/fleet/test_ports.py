"""Other ports for instances that run: one at a time, each on its new port before it gets slots again."""

from __future__ import annotations

import re

import pytest

from support.fleet_box import REDIS, FleetBox, fleet_box
from support.sandbox import wait_for
from support.watched import NAMED, QUICK, events, load, pid_of, signal

_TWO = REDIS.replace("instances = 4", "instances = 2")
_SOURCES = [f"198.18.3.{number}" for number in range(1, 9)]


def guarded(box: FleetBox) -> set[str]:
    """Return the ranges of ports that the guard knows."""
    found = re.search(r"elements = \{([^}]*)\}", box.rules("set", "inet", "portfleet", "ports"))
    return {one.strip() for one in found[1].split(",")} if found else set()


@pytest.mark.long
def test_ports_of_a_serving_fleet_change_without_a_refused_connection() -> None:
    with fleet_box(NAMED + QUICK) as box:
        with load(box) as clients:
            box.write(NAMED.replace("7100-7107", "7200-7207") + QUICK)
            planned = box.portfleet("plan").stdout
            assert "restart echo-blue-1 (its port becomes 7200" in planned, planned
            box.portfleet("apply", "--yes")
            assert {one["port"] for one in box.status().values() if one["slots"]} == {7200, 7201, 7202, 7203}
            # By two only: the last goes first, as each finds its port free only then.
            box.write(NAMED.replace("7100-7107", "7202-7209") + QUICK)
            box.portfleet("apply", "--yes")
            box.settled()
        assert clients.refused == 0 and clients.lost == []
        assert guarded(box) == {"7202-7209"}
        assert not [one for one in events(box, "ejected") if "probe" in one.fields["reason"]]
        box.portfleet("cutover", "echo", "--force", "--keep", "0")
        assert {one["port"] for one in box.status().values() if one["slots"]} == {7206, 7207, 7208, 7209}


@pytest.mark.long
def test_an_interrupted_change_of_ports_serves_on_and_is_finished_by_the_next_apply() -> None:
    with fleet_box(_TWO) as box:
        box.write(_TWO.replace("6100-6107", "6200-6207"))
        box.boxes.host.run("sh", "-c", "cat > /run/pf/fault", text="after wait until kv-blue-1 is ready")
        stopped = box.portfleet("apply", check=False, env={"PORTFLEET_FAULT_ONCE": "/run/pf/fault"})
        assert stopped.returncode != 0, stopped
        assert set(box.redis_ports(_SOURCES).values()) <= {6101, 6200}
        assert {name: one["state"] for name, one in box.status().items() if one["wanted"] == "serving"} == {
            "kv-blue-1": "ready", "kv-blue-2": "ready",
        }  # fmt: skip
        watcher = pid_of(box, "portfleet-watch")
        signal(box, watcher, "KILL")
        wait_for("another watcher", lambda: pid_of(box, "portfleet-watch") not in (0, watcher))
        wait_for("all is well", lambda: box.look("-q").returncode == 0)
        assert "portfleet apply, then again" in box.portfleet("restart", "kv", check=False).stderr
        box.portfleet("apply")
        assert set(box.redis_ports(_SOURCES).values()) <= {6200, 6201}


@pytest.mark.long
def test_a_port_that_is_taken_or_would_be_is_named_before_anything_is_done() -> None:
    with fleet_box(_TWO) as box:
        listener = box.boxes.host.popen("redis-server", "--port", "6201", "--save", "")
        try:
            box.write(_TWO.replace("6100-6107", "6200-6207"))
            box.boxes.host.run("sh", "-c", "until redis-cli -p 6201 ping; do :; done")
            refused = box.portfleet("apply", check=False)
            assert "kv-blue-2 cannot move to port 6201, on which redis-server" in refused.stderr, refused
            assert set(box.redis_ports(_SOURCES).values()) <= {6100, 6101}
        finally:
            listener.kill()
            listener.wait()
