"""What a probe asks a daemon that answers once only, and the shorter way of looking at the listener of a port."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from portfleet.core.policies import Probe
from portfleet.daemons.exchange import Port
from portfleet.daemons.probe import Target
from portfleet.watch.prober import Prober
from support.sandbox import wait_for

READY = b'{"ok": true, "state": "ready", "connections": 5, "max_connections": 7}\n'
DRAINING = READY.replace(b"ready", b"draining")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


class Probed:
    """One target, asked when a test asks; ``pid`` is its process."""

    def __init__(self, port: int, control: Path | None = None) -> None:
        self.pid: int | None = os.getpid()
        self.results: list[str] = []
        self.prober = Prober(lambda _, trouble, __: self.results.append(trouble), time.monotonic, lambda _: self.pid)
        self._port, self._control = port, control
        self.wait(10)

    def wait(self, seconds: float) -> None:
        """Have a probe take ``seconds`` at most."""
        place, probe = Port("127.0.0.1", self._port), Probe(interval=3600, timeout=seconds)
        self.prober.aim([Target("a", place, str(self._control) if self._control else None, probe)])

    def next(self) -> str:
        """Probe once more; return the result."""
        self.results.clear()
        self.prober.ask("a")
        wait_for("a result", lambda: self.prober.tick() >= 0 and bool(self.results))
        return self.results[0]


class Daemon:
    """Answers on a control socket by what ``answer`` returns, in parts; closes what comes to its port.

    ``asked`` counts questions, ``connected`` connections to the control socket, ``served`` those to the port.
    """

    def __init__(self, path: Path, port: socket.socket) -> None:
        self.answer: Callable[[], Iterable[bytes]] = lambda: [READY]
        self.asked = self.connected = self.served = 0
        self.control = socket.socket(socket.AF_UNIX)
        self.control.bind(str(path))
        self.control.listen()
        for work in (self._listen, lambda: self._serve(port)):
            threading.Thread(target=work, daemon=True).start()

    def _listen(self) -> None:
        while (client := _accepted(self.control)) is not None:
            self.connected += 1
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, suppress(ConnectionError):
            while client.recv(100):
                self.asked += 1
                for part in self.answer():
                    client.sendall(part)
                    time.sleep(0.02)  # so that parts come as parts

    def _serve(self, port: socket.socket) -> None:
        while (client := _accepted(port)) is not None:
            self.served += 1
            with client, suppress(ConnectionError):
                client.recv(1)


def _accepted(listener: socket.socket) -> socket.socket | None:
    """Return the next connection; None when the test has ended and closed what it comes to."""
    try:
        return listener.accept()[0]
    except OSError:
        return None


@pytest.fixture
def daemon(listener: socket.socket, tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "c", listener)


@pytest.fixture
def probed(listener: socket.socket, tmp_path: Path, daemon: Daemon) -> Probed:
    found = Probed(listener.getsockname()[1], tmp_path / "c")
    assert [found.next() for _ in range(2)] == ["", ""]
    return found


def test_another_answer_is_read(daemon: Daemon, probed: Probed) -> None:
    daemon.answer = lambda: [READY.replace(b": 5", b": 6")]
    assert probed.next() == ""
    assert probed.prober.said["a"].connections == 6
    daemon.answer = lambda: [DRAINING]
    assert probed.next() == "it says it is draining"
    daemon.answer = lambda: [READY]
    assert probed.next() == "", "over a new connection"
    assert daemon.connected == 2


@pytest.mark.parametrize(
    ("parts", "trouble"),
    [
        ([READY[:20], READY[20:]], ""),
        ([READY + b"x"], "it says more than it was asked"),
        ([b"nonsense\n"], "it does not answer properly: b'nonsense' is no JSON object"),
        ([b" " * 70_000], "control socket: sends more than 65,536 bytes"),
    ],
)
def test_what_is_no_such_answer_is_judged_as_ever(
    daemon: Daemon, probed: Probed, parts: list[bytes], trouble: str
) -> None:
    daemon.answer = lambda: parts
    assert probed.next() == trouble


@pytest.mark.parametrize("part", [b"", READY[:20]])
def test_one_that_hangs_is_late(daemon: Daemon, probed: Probed, part: bytes) -> None:
    daemon.answer = lambda: [part]
    probed.wait(0.1)
    assert probed.next() == "control socket: no answer within 100 ms"


def test_what_comes_unasked_makes_no_result_and_fails_the_next_probe(daemon: Daemon, probed: Probed) -> None:
    more = threading.Event()

    def answer() -> Iterator[bytes]:
        yield READY
        more.wait(10)
        yield b"x\n"

    daemon.answer = answer
    assert probed.next() == ""
    probed.results.clear()
    more.set()
    kept = probed.prober._kept["a"]
    wait_for("it has come", lambda: select.select([kept], [], [], 0)[0])
    probed.prober.tick()
    assert probed.results == []
    assert probed.next() in ("it says more than it was asked", "it does not answer properly: b'x' is no JSON object")


def test_another_process_is_asked_over_a_connection_of_its_own(daemon: Daemon, probed: Probed) -> None:
    asked = daemon.asked
    with subprocess.Popen(["sleep", "60"]) as other:
        probed.pid = other.pid
        assert f"process {os.getpid()} has it, which is none of the instance's" in probed.next()
        other.kill()
    assert daemon.asked == asked, "the connection to the process before is closed"


def test_59_of_sixty_connections_are_looks_at_the_listener(listener: socket.socket) -> None:
    probed, served = Probed(listener.getsockname()[1]), list[int]()
    listener.settimeout(0.001)
    for number in range(125):
        assert probed.next() == ""
        try:
            listener.accept()[0].close()
        except TimeoutError:
            continue
        served.append(number)
    first, second, third = served[:3]
    assert first == 0 and second <= 60 and third == second + 60


def test_a_port_on_which_some_wait_is_connected_to_each_time(listener: socket.socket) -> None:
    probed = Probed(listener.getsockname()[1])
    assert probed.next() == ""  # nobody takes it
    assert [probed.next() for _ in range(3)] == [""] * 3
    for _ in range(4):
        listener.accept()[0].close()


def test_a_listener_that_is_gone_fails_the_next_probe(listener: socket.socket) -> None:
    probed = Probed(listener.getsockname()[1])
    assert probed.next() == ""
    listener.accept()[0].close()
    assert probed.next() == ""
    listener.close()
    assert "ECONNREFUSED" in probed.next()


def test_a_control_socket_that_comes_later_is_asked_at_once(listener: socket.socket, tmp_path: Path) -> None:
    probed = Probed(listener.getsockname()[1], tmp_path / "c")
    assert probed.next() == "" and "a" not in probed.prober.said
    Daemon(tmp_path / "c", listener)
    assert probed.next() == "" and probed.prober.said["a"].connections == 5


def test_what_is_forgotten_of_probes_names_their_connections(listener: socket.socket) -> None:
    probed = Probed(listener.getsockname()[1])
    assert probed.next() == ""
    _, peer = listener.accept()
    (ended,) = probed.prober.ended
    assert (ended.local, ended.port, ended.peer_port) == (b"\x7f\0\0\1", peer[1], listener.getsockname()[1])
