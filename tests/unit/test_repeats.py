"""A daemon that repeats its answer is asked once, and asked again as soon as anything is not as it was."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from portfleet.core.policies import Probe
from portfleet.daemons.exchange import Port
from portfleet.daemons.probe import Target
from portfleet.watch.prober import Prober
from support.sandbox import wait_for

INTERVAL = 0.2
READY = b'{"ok": true, "state": "ready", "connections": 5, "max_connections": 7}\n'
REFUSED = b'{"ok": false, "code": "refused", "error": "state has no \'every\'", "hint": "keys: none"}\n'


class Daemon:
    """Answers on a control socket and repeats, sending ``says`` (of the first answer and of all others).

    ``asked`` are the commands that came, and ``served`` counts connections to the port.
    """

    def __init__(self, path: Path) -> None:
        self.first = self.says = READY
        self.repeats, self.silent = True, threading.Event()
        self.asked: list[dict[str, object]] = []
        self.served = 0
        self.port = socket.create_server(("127.0.0.1", 0))
        self.control = socket.socket(socket.AF_UNIX)
        self.control.bind(str(path))
        self.control.listen()
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """End both listeners."""
        self.silent.set()
        for listener in (self.control, self.port):
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._talk, args=(self.control.accept()[0],), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while line := client.recv(1000):
                self.asked.append(command := json.loads(line))
                every = command.get("every")
                client.sendall(self.first if every else READY)
                while every and self.repeats and not self.silent.wait(every):
                    client.sendall(self.says)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self.port.accept()[0]
                self.served += 1
                with client, suppress(ConnectionError):
                    client.recv(1)

    def questions(self) -> list[str]:
        """Return what it was asked without being told to repeat it."""
        return [str(one["command"]) for one in self.asked if "every" not in one]


class Probed:
    """The prober of one instance, which goes on while a test waits."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self.results: list[str] = []
        self.prober = Prober(lambda _, trouble, __: self.results.append(trouble), time.monotonic, lambda _: os.getpid())
        place, probe = Port("127.0.0.1", daemon.port.getsockname()[1]), Probe(interval=INTERVAL, timeout=0.5)
        self.prober.aim([Target("a", place, str(path), probe)])

    def until(self, what: str, condition: object) -> None:
        """Go on until ``condition`` is true."""
        assert callable(condition)
        wait_for(what, lambda: self.prober.tick() >= 0 and condition(), seconds=10)

    def next(self, number: int = 1) -> list[str]:
        """Return the next results."""
        self.results.clear()
        self.until(f"{number} results", lambda: len(self.results) >= number)
        return self.results


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "c")
    yield made
    made.close()


@pytest.fixture
def probed(daemon: Daemon, tmp_path: Path) -> Probed:
    return Probed(daemon, tmp_path / "c")


def repeating(probed: Probed, daemon: Daemon) -> None:
    probed.until("it is told to repeat", lambda: any("every" in one for one in daemon.asked))
    assert probed.next(2) == ["", ""]
    daemon.asked.clear()


def test_it_is_told_once_and_asked_no_more(daemon: Daemon, probed: Probed) -> None:
    repeating(probed, daemon)
    before = probed.prober.said["a"]
    assert probed.next(6) == [""] * 6
    assert daemon.asked == [] and probed.prober.said["a"] is before


def test_another_answer_is_read(daemon: Daemon, probed: Probed) -> None:
    repeating(probed, daemon)
    daemon.says = READY.replace(b": 5", b": 6")
    probed.until("it is read", lambda: probed.prober.said["a"].connections == 6)
    assert daemon.asked == []


@pytest.mark.parametrize(
    "said",
    [READY.replace(b"ready", b"draining"), b"nonsense\n", READY[:20], b"", b"[" * 9000 + b"\n", b"x" * 20_000],
)
def test_whatever_but_ready_has_it_asked_at_once(daemon: Daemon, probed: Probed, said: bytes) -> None:
    repeating(probed, daemon)
    daemon.says = said
    daemon.silent.clear()
    if not said:  # it says nothing more
        daemon.silent.set()
    probed.until("it is asked", lambda: daemon.questions() == ["state"])
    daemon.says = READY
    daemon.silent.clear()
    assert set(probed.next(3)) == {""}, "what it says when it is asked counts"


def test_one_that_refuses_to_repeat_is_asked_each_time(daemon: Daemon, probed: Probed) -> None:
    daemon.first, daemon.repeats = REFUSED, False
    assert probed.next(8) == [""] * 8
    assert len(daemon.questions()) >= 7 and len(daemon.asked) - len(daemon.questions()) == 1


def test_one_that_answers_once_is_asked_each_time(daemon: Daemon, probed: Probed) -> None:
    daemon.repeats = False
    assert probed.next(8) == [""] * 8
    assert len(daemon.questions()) >= 6 and len(daemon.asked) - len(daemon.questions()) == 1


def test_what_it_counts_is_repeated_while_it_is_wanted(daemon: Daemon, probed: Probed) -> None:
    repeating(probed, daemon)
    assert probed.prober.counted() == {}
    probed.until("it tells", lambda: probed.prober.counted().get("a"))
    assert [one["command"] for one in daemon.asked] == ["status"] and "every" in daemon.asked[0]


def test_its_port_is_connected_to_now_and_then(daemon: Daemon, probed: Probed) -> None:
    repeating(probed, daemon)
    daemon.served = 0
    probed.until("it is connected to", lambda: daemon.served)
    assert daemon.asked == []


def test_one_that_is_not_probed_any_more_has_its_connection_closed(daemon: Daemon, probed: Probed) -> None:
    repeating(probed, daemon)
    before = threading.active_count()
    probed.prober.aim([])
    wait_for("its thread has ended", lambda: threading.active_count() < before)
