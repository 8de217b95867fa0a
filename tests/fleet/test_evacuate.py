"""A box is emptied of all its connections, while clients talk: plan, stop, again, and at last the address."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.held import dialled
from support.sandbox import wait_for
from support.two_boxes import ONE, SERVICE4, SERVICE6, TWO, Pair, Talkers, pair, sources

FLEET = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:echo"]
ports = "7100-7107"
instances = 3
when_empty = "drop"
min_ready = "off"

[service.plain]
listen = [":7050"]
command = ["redis-server", "--port", "{port}", "--save", "", "--protected-mode", "no"]
ports = "7200-7203"
instances = 1
min_ready = "off"
"""

#: A client that connects, however long that takes, and asks once.
NEW = f"""
import socket
with socket.create_connection(("{SERVICE4}", 7000), 30) as connection:
    connection.sendall(b"hello\\n")
    print(connection.makefile().readline(), end="")
"""


@pytest.fixture(scope="module")
def boxes() -> Iterator[Pair]:
    with pair(FLEET) as made:
        yield made


def test_the_plan_says_what_moves_and_what_stays(boxes: Pair) -> None:
    done = boxes.portfleet(boxes.one, "evacuate", TWO, "--last", "--dry-run")

    assert f"echo-blue-2             0  moves to {TWO}" in done.stdout
    assert "plain-blue-1            0  stays: the daemon of plain-blue-1 cannot hand off connections" in done.stdout
    assert boxes.portfleet(boxes.one, "plan").stdout.startswith("nothing to do")


def test_a_box_that_cannot_be_asked_is_refused(boxes: Pair) -> None:
    done = boxes.portfleet(boxes.one, "evacuate", "192.0.2.77", check=False)
    assert done.returncode == 1 and "192.0.2.77 cannot be asked" in done.stderr
    assert boxes.portfleet(boxes.one, "plan").stdout.startswith("nothing to do")


@pytest.mark.long
def test_a_box_is_emptied_and_its_clients_go_on_at_the_other(boxes: Pair) -> None:
    """Last, as box one is gone then."""
    boxes.portfleet(boxes.one, "pin", "echo", ONE, "2")
    talkers = Talkers(boxes.clients, sources=sources(300), port=7000, every=0.4)
    try:
        with dialled(boxes.one, (SERVICE4, 7000), [ONE] * 2):
            done = boxes.portfleet(boxes.one, "evacuate", TWO, check=False)

            assert done.returncode == 1 and "2 stay here until closed" in done.stderr, done.stderr
            here = boxes.connections(boxes.one)
            assert here["echo-blue-2"] == 2 and here["echo-blue-3"] > 0, "it has stopped"
            again = json.loads(boxes.portfleet(boxes.one, "evacuate", TWO, "--json", check=False).stdout)
            rows = {row["instance"]: row["result"] for row in again["instances"]}
            assert rows == {"echo-blue-3": "done", "echo-blue-2": "failed"}, "what stays holds up no other"
            assert again["left"] == {"echo-blue-1": here["echo-blue-1"], "echo-blue-2": 2}
        done = boxes.portfleet(boxes.one, "evacuate", TWO, "--last", check=False)

        assert done.returncode == 1 and "connections left here: none" in done.stdout, (done.stdout, done.stderr)
        assert "next: at once: have the address that clients dial on" in done.stdout
        assert sum(boxes.connections(boxes.two).values()) == 300
        new = boxes.clients.popen("/usr/bin/python3", "-c", NEW)  # its SYN is dropped until the address has moved
        wait_for("it asks", lambda: SERVICE4 in boxes.clients.run("ss", "-tnH", "state", "syn-sent").stdout)
        boxes.one.ip("link set eth0 down")
        boxes.two.ip(f"addr add {SERVICE4}/24 dev eth0", f"addr add {SERVICE6}/64 dev eth0 nodad")
        boxes.clients.run("ip", "neigh", "flush", "dev", "br0")
        assert new.communicate(timeout=30)[0] == "hello\n"
        found = talkers.stop()
        assert found["connected"] == 300 and found["failed"] == found["lost"] == found["wrong"] == 0, found
    finally:
        talkers.close()
