"""Exchanges over real sockets: one deadline for all of one, and none that holds up another."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from portfleet.core.status import DaemonState
from portfleet.daemons.answers import ControlError, Refused, read_status
from portfleet.daemons.control import Ask, ask, ask_status, request
from portfleet.daemons.exchange import Control
from portfleet.daemons.talk import carry_out

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

    def __call__(self, behave: Behave) -> Path:
        self._count += 1
        path = self._folder / f"{self._count}.sock"
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=self._serve, args=(listener, behave), daemon=True).start()
        return path

    def _serve(self, listener: socket.socket, behave: Behave) -> None:
        with suppress(OSError), listener.accept()[0] as connection:
            behave(connection)


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    with ExitStack() as stack:
        yield Daemons(tmp_path, stack)


def trouble(path: Path, *, seconds: float = 0.4) -> str:
    """Return how asking for the status ends; AssertionError if it takes longer than it may."""
    began = time.monotonic()
    with pytest.raises(ControlError) as caught:
        ask_status(path, seconds=seconds)
    assert time.monotonic() - began < seconds + 0.3
    return str(caught.value)


def test_a_status_is_read_however_it_is_written_or_cut(daemons: Daemons) -> None:
    for path in (daemons(say(READY)), daemons(say(READY[:9], READY[9:-1], b"\n", every=0.02))):
        status = ask_status(path)
        assert (status.state, status.connections) == (DaemonState.READY, 7)


def test_no_byte_extends_the_deadline(daemons: Daemons) -> None:
    assert trouble(daemons(say(*(b" " for _ in range(100)), every=0.1))) == "control socket: no answer within 400 ms"
    assert "no answer within" in trouble(daemons(say()))


def test_what_is_said_beyond_an_answer_is_not_listened_to(daemons: Daemons) -> None:
    assert trouble(daemons(flood)) == "control socket: sends more than 65,536 bytes"
    assert trouble(daemons(say(READY + READY))) == "it says more than it was asked"
    assert "no JSON object" in trouble(daemons(say(b"[" * 60_000 + b"\n")))


def test_no_process_a_closed_connection_and_a_refusal_are_told(daemons: Daemons, tmp_path: Path) -> None:
    assert "ENOENT" in trouble(tmp_path / "none")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    assert "ECONNREFUSED" in trouble(tmp_path / "dead")
    assert trouble(daemons(leave)) == "control socket: closed without an answer"
    with pytest.raises(Refused, match="not now"):
        ask(daemons(say(b'{"ok": false, "error": "not now"}\n')), "drain", rate=5)


def test_many_that_hang_take_no_longer_than_one_and_hold_up_nobody(daemons: Daemons) -> None:
    behaviours: list[Behave] = [say(), flood, say(*(b" " for _ in range(100)), every=0.01)] * 5
    paths = [daemons(behave) for behave in behaviours] + [daemons(say(READY))]
    asked = [Ask(Control(str(path)), request("status"), read_status) for path in paths]
    began = time.monotonic()
    found = carry_out([(one, 0.5) for one in asked])
    assert time.monotonic() - began < 1.0
    assert found[-1] == "" and asked[-1].answer is not None and asked[-1].answer.connections == 7
    assert all(found[:-1]) and {one.answer for one in asked[:-1]} == {None}


def test_each_has_its_own_deadline(daemons: Daemons) -> None:
    talking = say(*(b" " for _ in range(200)), every=0.005)
    asked = [Ask(Control(str(daemons(talking))), request("status"), read_status) for _ in range(2)]
    times: list[float] = []

    def clock() -> float:
        times.append(time.monotonic())
        return times[-1]

    assert carry_out([(asked[0], 0.1), (asked[1], 0.6)], clock=clock) == [
        "control socket: no answer within 100 ms",
        "control socket: no answer within 600 ms",
    ]
    assert times[-1] - times[0] < 0.9
