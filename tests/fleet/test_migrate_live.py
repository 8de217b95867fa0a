"""Established connections go on at another box: real packets, two fleets, clients that talk all the time."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.counting import COUNTING
from support.held import dialled
from support.netns import network_of
from support.rights import needs_another_user
from support.sandbox import wait_for
from support.two_boxes import CUT, ONE, SERVICE4, SERVICE6, TWO, Pair, Talkers, pair, sources

ECHO = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:echo"]
ports = "7100-7107"
instances = 2
"""


NONE = "; none is left here"
FOUR = [f"198.18.1.{number}" for number in range(1, 41)]
#: Where a process is killed, on which box.
KILLED = [
    ("one", "relocation held"),
    ("one", "relocation dumped"),
    ("one", "relocation prepared"),
    ("one", "relocation silenced"),
    ("one", "relocation committed"),
    ("two", "relocation received"),
    ("two", "relocation restored"),
    ("two", "relocation prepared there"),
    ("two", "relocation thawed"),
    ("two", "relocation passed on"),
]


@pytest.fixture(scope="module")
def boxes() -> Iterator[Pair]:
    with pair(ECHO) as made:
        yield made


@pytest.fixture
def fresh(boxes: Pair) -> Iterator[Pair]:
    """Return the boxes; the instance that a test has drained serves again afterwards."""
    yield boxes
    boxes.portfleet(boxes.one, "undrain", "echo/2", check=False)


@contextmanager
def talking(boxes: Pair, count: int, **job: Any) -> Iterator[Talkers]:
    talkers = Talkers(boxes.clients, **({"sources": sources(count), "port": 7000, "every": 0.4} | job))
    try:
        yield talkers
    finally:
        talkers.close()


def check(found: dict[str, Any], count: int) -> None:
    print(json.dumps(found))
    assert found["connected"] == count and found["failed"] == 0, found
    assert found["lost"] == found["wrong"] == 0, found


@pytest.mark.long
def test_established_connections_of_both_families_go_on_at_the_other_box(fresh: Pair) -> None:
    boxes = fresh
    with talking(boxes, 400) as talkers:
        wait_for("all are counted", lambda: sum(boxes.connections(boxes.one).values()) == 400)
        here = boxes.connections(boxes.one)

        said = boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live").stdout

        assert f"{here['echo-blue-2']:,} connections were moved to {TWO} in " in said and NONE in said, said
        assert boxes.connections(boxes.one)["echo-blue-2"] == 0
        assert boxes.connections(boxes.two)["echo-blue-2"] == here["echo-blue-2"]
        check(talkers.stop(), 400)


@pytest.mark.long
def test_what_is_unread_and_unsent_moves_along(fresh: Pair) -> None:
    """Clients that do not read until the end: their questions wait unread, the replies unsent, byte for byte."""
    boxes = fresh
    with talking(boxes, 80, mute=40, sizes=[3, 700, 9000]) as talkers:
        wait_for("queues fill", lambda: _queued(boxes) > 500_000)

        said = boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live").stdout

        assert NONE in said
        check(talkers.stop(), 80)


def _queued(boxes: Pair) -> int:
    """Return how many bytes wait in the queues of the instance's sockets on box one."""
    lines = boxes.one.run("ss", "-tnH", "sport", "=", ":7101").stdout.splitlines()
    return sum(int(line.split()[1]) + int(line.split()[2]) for line in lines)


@pytest.mark.long
@pytest.mark.parametrize(("box", "point"), KILLED)
def test_a_mover_that_is_killed_costs_no_connection(fresh: Pair, box: str, point: str) -> None:
    boxes = fresh
    with talking(boxes, 300) as talkers:
        boxes.kill_at(getattr(boxes, box), point)

        said = boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live", check=False)

        assert not getattr(boxes, box).path("/run/fault").exists(), "it was killed"
        assert boxes.connections(boxes.one)["echo-blue-2"] == 0, said
        check(talkers.stop(), 300)


@pytest.mark.long
@pytest.mark.parametrize("moment", ["batch", "prepared", "commit", "done"])
def test_a_stream_that_is_cut_costs_no_connection(fresh: Pair, moment: str) -> None:
    """Before the other box has a batch, or says that; before it is told, or says that it has it: it is asked anew."""
    boxes = fresh
    with talking(boxes, 300) as talkers:
        there = boxes.connections(boxes.one)["echo-blue-2"]
        env = boxes.cut_at(moment)

        said = boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live", env=env, check=False)

        assert not boxes.one.path(CUT).exists(), "it was cut"
        assert boxes.connections(boxes.one)["echo-blue-2"] == 0, said
        assert boxes.connections(boxes.two)["echo-blue-2"] == there
        check(talkers.stop(), 300)


@pytest.mark.long
def test_a_daemon_that_stands_still_gets_none_and_costs_none(fresh: Pair) -> None:
    """That of the other box, in the middle: what it did not take in time goes on here, and moves when it goes on."""
    boxes = fresh
    with talking(boxes, 1500, every=2.0) as talkers:
        there = boxes.connections(boxes.one)["echo-blue-2"]
        status = json.loads(boxes.portfleet(boxes.two, "status", "--json").stdout)["services"][0]
        (pid,) = (str(one["pid"]) for one in status["instances"] if one["name"] == "echo-blue-2")
        with ThreadPoolExecutor() as pool:
            moving = pool.submit(boxes.portfleet, boxes.one, "migrate", "echo/2", TWO, "--live", check=False)
            wait_for("some have moved", lambda: len(_moved(boxes)) > 0, seconds=20)
            boxes.two.run("kill", "-STOP", pid)
            done = moving.result()
        boxes.two.run("kill", "-CONT", pid)

        if done.returncode:
            boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live")
        assert boxes.connections(boxes.one)["echo-blue-2"] == 0, done
        assert boxes.connections(boxes.two)["echo-blue-2"] == there
        check(talkers.stop(), 1500)


def _moved(boxes: Pair) -> list[str]:
    """Return the connections of the instance on box two."""
    return boxes.two.run("ss", "-tnH", "sport", "=", ":7101").stdout.splitlines()


@pytest.mark.long
@pytest.mark.parametrize(
    ("here", "there", "why"),
    [
        ("max_connections = 4000", "max_connections = 60", "60 connections were moved to"),
        ('handler", "portfleet_daemon', 'framing", "length", "--handler", "portfleet_daemon', "framing is length here"),
    ],
)
def test_what_the_other_box_refuses_stays_in_service(here: str, there: str, why: str) -> None:
    """Some of the connections, for which it has no room, or all, of which its daemon could not go on."""
    config = ECHO + "max_connections = 4000\n"
    with pair(config, other=config.replace(here, there)) as boxes, talking(boxes, 300) as talkers:
        before = boxes.connections(boxes.one)["echo-blue-2"]

        done = boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live", check=False)

        assert done.returncode == 1 and why in done.stderr, done.stderr
        left, moved = boxes.connections(boxes.one)["echo-blue-2"], boxes.connections(boxes.two)["echo-blue-2"]
        assert left > 0 and left + moved == before
        check(talkers.stop(), 300)


@pytest.mark.long
def test_a_cancelled_one_leaves_each_connection_where_it_is(fresh: Pair) -> None:
    """However many have moved by then, which goes by how fast the box is."""
    boxes = fresh
    with talking(boxes, 1200, every=0.5) as talkers:
        there = boxes.connections(boxes.one)["echo-blue-2"]
        boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live", "--no-wait")
        boxes.portfleet(boxes.one, "cancel", "echo")

        left, moved = boxes.connections(boxes.one)["echo-blue-2"], boxes.connections(boxes.two)["echo-blue-2"]
        assert left + moved == there
        status = json.loads(boxes.portfleet(boxes.one, "status", "--json").stdout)["services"][0]
        assert status["instances"][1]["wanted"] == "serving"
        check(talkers.stop(), 1200)


@pytest.mark.long
def test_they_come_back_by_the_same_way(fresh: Pair) -> None:
    """From the first box to the second and back: the entries of both boxes are right each time."""
    boxes = fresh
    with talking(boxes, 100) as talkers:
        boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live")
        boxes.portfleet(boxes.one, "undrain", "echo/2")
        there = boxes.connections(boxes.two)["echo-blue-2"]

        said = boxes.portfleet(boxes.two, "migrate", "echo/2", ONE, "--live").stdout

        assert f"{there:,} connections were moved to {ONE}" in said
        boxes.portfleet(boxes.two, "undrain", "echo/2")
        check(talkers.stop(), 100)


@pytest.mark.long
def test_a_client_whose_connection_moved_and_ended_dials_anew_by_the_same_port(fresh: Pair) -> None:
    boxes, six = fresh, [address for service, address in sources(40) if service == SERVICE6]
    with (
        dialled(boxes.clients, (SERVICE4, 7000), FOUR) as some,
        dialled(boxes.clients, (SERVICE6, 7000), six) as others,
    ):
        connections = [*some, *others]
        places = [(one.getpeername()[:2], one.getsockname()[:2]) for one in connections]
        boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live")
        assert boxes.connections(boxes.two)["echo-blue-2"] > 0
        for connection in connections:  # by RST, so that no port waits for its TIME_WAIT to end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for("they have ended", lambda: boxes.connections(boxes.two)["echo-blue-2"] == 0)
    with network_of(boxes.clients):
        for service, client in places:
            with socket.create_connection(service, timeout=5, source_address=client) as connection:
                connection.sendall(b"again\n")
                assert connection.recv(100) == b"again\n"


@pytest.mark.long
def test_what_cannot_move_stays_in_service_and_is_told(fresh: Pair) -> None:
    """Clients on the box itself, in one batch with others: the daemon gets them back, and the others go."""
    boxes = fresh
    boxes.portfleet(boxes.one, "pin", "echo", ONE, "2")
    with talking(boxes, 100) as talkers, dialled(boxes.one, (SERVICE4, 7000), [ONE] * 3) as own:
        there = boxes.connections(boxes.one)["echo-blue-2"]

        done = boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live", check=False)

        assert f"{there - 3} connections were moved to {TWO} in " in done.stderr
        assert "3 stay here until closed (3: it does not" in done.stderr
        assert boxes.connections(boxes.one)["echo-blue-2"] == 3
        for connection in own:
            connection.sendall(b"still here\n")
        assert [connection.recv(100) for connection in own] == [b"still here\n"] * 3
        check(talkers.stop(), 100)
    boxes.portfleet(boxes.one, "unpin", "echo", ONE)


@pytest.mark.long
@needs_another_user
def test_an_instance_of_another_user_is_met_in_a_directory_that_only_it_can_enter() -> None:
    with pair(ECHO + 'user = "nobody"\n') as boxes, talking(boxes, 40) as talkers:
        there = boxes.connections(boxes.one)["echo-blue-2"]

        said = boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live").stdout

        assert f"{there} connections were moved to {TWO} in " in said and NONE in said
        check(talkers.stop(), 40)


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("echo/2", "192.0.2.77"), "192.0.2.77 cannot be asked"),
        (("echo/2", TWO, "--share", "25%"), "--live moves all connections"),
        (("echo/9", TWO), "has no instance '9'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_moves(boxes: Pair, words: tuple[str, ...], why: str) -> None:
    done = boxes.portfleet(boxes.one, "migrate", *words, "--live", check=False)

    assert done.returncode != 0 and why in done.stderr
    assert boxes.portfleet(boxes.one, "plan").stdout.startswith("nothing to do")


@pytest.mark.long
def test_the_state_of_a_handler_moves_along(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    tmp_path.chmod(0o755)
    config = ECHO.replace("portfleet_daemon.handlers:echo", "counting:Counting")
    config += f'environment = {{ PYTHONPATH = "{tmp_path}" }}\n'
    with pair(config) as boxes, dialled(boxes.clients, (SERVICE4, 7000), FOUR) as connections:
        ask(connections, 1)
        ask(connections, 2)
        boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live")
        ask(connections, 3)
        assert boxes.connections(boxes.two)["echo-blue-2"] > 0


def ask(connections: list[socket.socket], number: int) -> None:
    """Ask each once, and find its request the ``number``-th of its connection."""
    for connection in connections:
        connection.sendall(b"x\n")
    assert {connection.recv(100) for connection in connections} == {b"%d x\n" % number}


@pytest.mark.long
def test_with_the_first_box_unplugged_they_go_on_once_the_address_has_moved(boxes: Pair) -> None:
    """Last, as box one is gone then. Only clients of the instance that moves talk."""
    everyone = [address for _, address in sources(200)]
    said = json.loads(boxes.portfleet(boxes.one, "explain", "echo", "--json", *everyone).stdout)
    moved = {answer["address"] for answer in said if answer["instance"] == "echo-blue-2"}
    chosen = [one for one in sources(200) if one[1] in moved]
    with talking(boxes, 0, sources=chosen) as talkers:
        boxes.portfleet(boxes.one, "migrate", "echo/2", TWO, "--live")
        boxes.one.ip("link set eth0 down")
        boxes.two.ip(f"addr add {SERVICE4}/24 dev eth0", f"addr add {SERVICE6}/64 dev eth0 nodad")
        boxes.clients.run("ip", "neigh", "flush", "dev", "br0")

        check(talkers.stop(), len(chosen))
