"""Exchanges over real sockets: one deadline for all of one, and none that holds up another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from portfleet.core.status import DaemonState, Status
from portfleet.daemons.answers import ControlError, Refused, read_status
from portfleet.daemons.capability import Heard
from portfleet.daemons.control import Ask, ask, request
from portfleet.daemons.exchange import Control
from portfleet.daemons.instances import hear_at
from portfleet.daemons.talk import carry_out, dial

pytestmark = pytest.mark.timed  # nearly all of them hold what is asked to its deadline
READY = b'{"state" : "ready", "connections": 7, "ok": true}\n'
Behave = Callable[[socket.socket], None]


def say(*parts: bytes, every: float = 0) -> Behave:
    """Return a behaviour: say ``parts``, ``every`` seconds apart, then wait for the other side to go."""

    def behave(connection: socket.socket) -> None:
        connection.recv(4096)
        for part in parts:
            connection.sendall(part)
            time.sleep(every)
        connection.recv(4096)

    return behave


def leave(connection: socket.socket) -> None:
    connection.recv(4096)


def flood(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * 4096)


class Daemons:
    """Makes control sockets that behave in a certain way; each serves one connection in a thread of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack, self._count = folder, stack, 0

    def __call__(self, behave: Behave) -> Control:
        self._count += 1
        path = self._folder / f"{self._count}.sock"
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=self._serve, args=(listener, behave), daemon=True).start()
        return Control(str(path), os.getpid())

    def _serve(self, listener: socket.socket, behave: Behave) -> None:
        with suppress(OSError), listener.accept()[0] as connection:
            behave(connection)


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    with ExitStack() as stack:
        yield Daemons(tmp_path, stack)


def heard(place: Control, *, seconds: float = 0.4) -> Heard:
    """Return what a daemon says of itself; AssertionError if that takes longer than it may."""
    began = time.monotonic()
    found = hear_at({"a": place}, seconds=seconds)["a"]
    assert time.monotonic() - began < seconds + 0.3
    assert (found.status is None) == bool(found.trouble)
    return found


def test_a_status_is_read_however_it_is_written_or_cut(daemons: Daemons) -> None:
    for place in (daemons(say(READY)), daemons(say(READY[:9], READY[9:-1], b"\n", every=0.02))):
        assert heard(place) == Heard(Status(DaemonState.READY, 7))


def test_no_byte_extends_the_deadline(daemons: Daemons) -> None:
    for behave in (say(*(b" " for _ in range(100)), every=0.1), say()):
        assert heard(daemons(behave)) == Heard(None, "control socket: no answer within 400 ms")


def test_what_is_said_beyond_an_answer_is_not_listened_to(daemons: Daemons) -> None:
    assert heard(daemons(flood)).trouble == "control socket: sends more than 65,536 bytes"
    assert heard(daemons(say(READY + READY))).trouble == "it says more than it was asked"
    assert "no JSON object" in heard(daemons(say(b"[" * 60_000 + b"\n"))).trouble


def test_no_process_a_closed_connection_and_a_refusal_are_told(daemons: Daemons, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    for name, code in (("none", "no control socket"), ("dead", "no control socket")):
        silent = heard(Control(str(tmp_path / name), os.getpid()))
        assert code in silent.trouble and not silent.speaks
    assert heard(daemons(leave)) == Heard(None, "control socket: closed without an answer")
    with pytest.raises(Refused, match="not now"):
        ask(daemons(say(b'{"ok": false, "error": "not now"}\n')), "drain", rate=5)
    with pytest.raises(ControlError, match="ENOENT"):
        ask(Control(str(tmp_path / "none"), None), "drain")


def test_a_full_queue_is_no_answer_and_no_absence(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as full, ExitStack() as held:
        full.bind(str(tmp_path / "full"))
        full.listen(0)
        place = Control(str(tmp_path / "full"), os.getpid())
        for _ in range(2):
            with suppress(BlockingIOError):
                held.enter_context(dial(place))
        found = heard(place)
    assert "EAGAIN" in found.trouble and found.speaks


_LISTEN = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(flush=True)
time.sleep(99)
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Return the path of a socket that a child of this process listens on, and the child's pid."""
    with subprocess.Popen([sys.executable, "-c", _LISTEN, str(tmp_path / "s")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        yield str(tmp_path / "s"), process.pid
        process.kill()


def test_only_the_instances_own_processes_are_asked(stranger: tuple[str, int], tmp_path: Path) -> None:
    path, pid = stranger
    for instance in (pid, os.getpid()):  # a child is of the instance's tree
        dial(Control(path, instance)).close()
    with subprocess.Popen(["sleep", "99"]) as other:
        words = f"process {pid} has it, which is none of the instance's (process {other.pid})"
        assert heard(Control(path, other.pid)) == Heard(None, f"control socket: {words}")
        with pytest.raises(ControlError, match=str(pid)):
            ask(Control(path, other.pid), "drain", deadline=1)
        other.kill()
    (tmp_path / "link").symlink_to(path)
    found = heard(Control(str(tmp_path / "link"), pid))
    assert "ELOOP" in found.trouble and found.speaks


def test_many_that_hang_take_no_longer_than_one_and_hold_up_nobody(daemons: Daemons) -> None:
    behaviours: list[Behave] = [say(), flood, say(*(b" " for _ in range(100)), every=0.01)] * 5
    places = [daemons(behave) for behave in behaviours] + [daemons(say(READY))]
    asked = [Ask(place, request("status"), read_status) for place in places]
    began = time.monotonic()
    found = carry_out([(one, 0.5) for one in asked])
    assert time.monotonic() - began < 1.0
    assert found[-1] == "" and asked[-1].answer is not None and asked[-1].answer.connections == 7
    assert all(found[:-1]) and {one.answer for one in asked[:-1]} == {None}


def test_each_has_its_own_deadline(daemons: Daemons) -> None:
    talking = say(*(b" " for _ in range(200)), every=0.005)
    asked = [Ask(daemons(talking), request("status"), read_status) for _ in range(2)]
    times: list[float] = []

    def clock() -> float:
        times.append(time.monotonic())
        return times[-1]

    assert carry_out([(asked[0], 0.1), (asked[1], 0.6)], clock=clock) == [
        "control socket: no answer within 100 ms",
        "control socket: no answer within 600 ms",
    ]
    assert times[-1] - times[0] < 0.9
