"""Daemons that take their ports from a file: mosquitto as a user of its own, with a second port."""

from __future__ import annotations

import json

import pytest

from support.fleet_box import HOME, FleetBox, fleet_box
from support.rights import needs_another_user
from support.sandbox import wait_for
from support.watched import signal, wait_event

MOSQUITTO = f"""
[service.mqtt]
listen = [":1883"]
command = ["mosquitto", "-c", "{HOME}/made/{{instance}}.conf"]
user = "nobody"
ports = "7400-7403"
extra_ports = {{ plain = 7500 }}
instances = 2
files = {{ "{HOME}/made/{{instance}}.conf" = "mosquitto.conf.in" }}
"""
TEMPLATE = "listener {port}\nallow_anonymous true\nlistener {port_plain} 127.0.0.1\nlog_dest stdout\n"


def put(box: FleetBox, text: str, name: str = "mosquitto.conf.in") -> None:
    box.boxes.host.run("sh", "-c", f"cat > {HOME}/{name}", text=text)


def listening(box: FleetBox) -> set[int]:
    found = box.boxes.host.run("ss", "-Hltn4").stdout.splitlines()
    return {int(line.split()[3].rpartition(":")[2]) for line in found}


@pytest.mark.long
@needs_another_user
def test_mosquitto_has_a_file_for_each_instance_that_comes_and_goes_with_it() -> None:
    with fleet_box() as box:
        host = box.boxes.host
        box.write(MOSQUITTO)
        refused = box.portfleet("check", check=False)
        assert refused.returncode == 2 and "service.mqtt.files: template" in refused.stderr, refused
        refused = box.portfleet("up", check=False)
        assert refused.returncode == 2 and "cannot be read" in refused.stderr and "hint:" in refused.stderr
        assert not host.path(f"{HOME}/made").exists()

        put(box, TEMPLATE)
        assert box.portfleet("check").returncode == 0
        box.portfleet("up")
        wait_event(box, "watching")
        box.settled()
        assert {7400, 7401, 7500, 7501} <= listening(box)
        owner = host.run("stat", "-c", "%U %a %n", f"{HOME}/made/mqtt-blue-2.conf").stdout
        assert owner.startswith("nobody 600"), owner
        assert box.status()["mqtt-blue-2"]["extra_ports"] == {"plain": 7501}
        answer = json.loads(box.portfleet("explain", "mqtt", "198.18.0.7", "--json").stdout)
        assert answer["extra_ports"]["plain"] == answer["port"] + 100

        put(box, TEMPLATE + "max_connections 500\n")
        plan = box.portfleet("plan", "--check", check=False)
        assert plan.returncode == 6 and "restart mqtt-blue-1" in plan.stdout, plan
        before = {name: seen["pid"] for name, seen in box.status().items() if seen["pid"]}
        box.portfleet("apply")
        box.settled()
        assert "max_connections 500" in host.run("cat", f"{HOME}/made/mqtt-blue-1.conf").stdout
        assert not before.items() & {name: seen["pid"] for name, seen in box.status().items()}.items()

        put(box, "listener {prot}\n")
        refused = box.portfleet("apply", check=False)
        assert refused.returncode == 2 and "unknown placeholder {prot}" in refused.stderr, refused
        assert "unknown placeholder {prot}" in box.portfleet("plan").stdout
        assert {name for name, seen in box.status().items() if seen["state"] == "ready"} == {
            "mqtt-blue-1",
            "mqtt-blue-2",
        }
        put(box, TEMPLATE)
        box.write(MOSQUITTO.replace("instances = 2", "instances = 1"))
        box.portfleet("apply")
        wait_for("it is stopped", lambda: box.portfleet("apply").returncode == 0 and 7401 not in listening(box))
        assert host.run("ls", f"{HOME}/made").stdout.split() == ["mqtt-blue-1.conf"]
        box.portfleet("down", "--yes")
        assert host.run("ls", f"{HOME}/made").stdout == ""


def test_a_taken_extra_port_is_named_before_anything_is_begun() -> None:
    with fleet_box() as box:
        put(box, TEMPLATE)
        box.write(MOSQUITTO.replace('user = "nobody"\n', ""))
        other = box.boxes.host.popen("redis-server", "--port", "7501", "--save", "")
        wait_for("it listens", lambda: 7501 in listening(box))
        refused = box.portfleet("up", check=False)
        assert refused.returncode == 1 and "mqtt-blue-2: redis-server" in refused.stderr, refused
        assert "listens on its port 7501" in refused.stderr
        (pid,) = [pid for pid, words in box.processes().items() if "redis-server" in words]
        signal(box, pid, "KILL")
        other.communicate()
        box.portfleet("up")


def test_a_directory_of_others_is_refused() -> None:
    with fleet_box() as box:
        put(box, TEMPLATE)
        box.boxes.host.run("install", "-d", "-m", "1777", f"{HOME}/made")
        box.write(MOSQUITTO)
        refused = box.portfleet("check", check=False)
        assert refused.returncode == 2 and f"{HOME}/made, to which other users may write" in refused.stderr, refused
