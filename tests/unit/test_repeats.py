"""A daemon that repeats its answer is asked once, and asked again as soon as anything is not as it was."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from portfleet.core.policies import Probe
from portfleet.daemons.exchange import Port
from portfleet.daemons.probe import Target
from portfleet.watch.prober import Prober
from support.sandbox import wait_for

INTERVAL = 1.0
READY = b'{"ok": true, "state": "ready", "connections": 5, "max_connections": 7}\n'
REFUSED = b'{"ok": false, "code": "refused", "error": "state has no \'every\'", "hint": "keys: none"}\n'


class Daemon:
    """Answers on a control socket at once, and repeats ``says`` whenever a test has it do so.

    ``first`` is its answer to who tells it to repeat, whom it forgets without ``repeats``. ``asked`` are the commands
    that came, and ``served`` counts connections to the port.
    """

    def __init__(self, path: Path) -> None:
        self.first = self.says = READY
        self.repeats, self.told = True, list[socket.socket]()
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
        for listener in (self.control, self.port):
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def repeat(self) -> None:
        """Send the answer once more to all who told it to repeat."""
        for client in self.told:
            with suppress(OSError):
                client.sendall(self.says)

    def questions(self) -> list[str]:
        """Return what it was asked without being told to repeat it."""
        return [str(one["command"]) for one in self.asked if "every" not in one]

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._talk, args=(self.control.accept()[0],), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while line := client.recv(1000):
                command = json.loads(line)
                self.asked.append(command)
                client.sendall(self.first if "every" in command else READY)
                if "every" in command and self.repeats:
                    self.told.append(client)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self.port.accept()[0]
                self.served += 1
                with client, suppress(ConnectionError):
                    client.recv(1)


class Probed:
    """The prober of one instance, whose time goes on when a test says so."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self.results: list[str] = []
        self.now, self.daemon = 1000.0, daemon
        self.prober = Prober(
            lambda _, trouble, __: self.results.append(trouble), lambda: self.now, lambda _: os.getpid()
        )
        place, probe = Port("127.0.0.1", daemon.port.getsockname()[1]), Probe(interval=INTERVAL, timeout=0.5)
        self.prober.aim([Target("a", place, str(path), probe)])

    def turn(self, *, repeats: bool = True) -> str:
        """Have a bit more than an interval pass, at whose end the daemon ``repeats`` its answer; return a result."""
        # Nothing is late because a test has time pass.
        self.read("no probe is under way", lambda: not self.prober._probes)
        told = self.prober._states._repeated.values()
        self.read("who was told to repeat has answered", lambda: all(one.count for one in told))
        self.results.clear()
        self.now += INTERVAL
        if repeats:
            self.daemon.repeat()
        self.read("no probe is under way", lambda: not self.prober._probes)
        self.now += 0.15 * INTERVAL
        self.read("a result", lambda: self.results)
        return self.results[-1]

    def read(self, what: str, condition: Callable[[], object]) -> None:
        """Read what comes until ``condition`` is true; no time passes."""
        wait_for(what, lambda: self.prober.tick() >= 0 and condition())


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "c")
    yield made
    made.close()


@pytest.fixture
def probed(daemon: Daemon, tmp_path: Path) -> Probed:
    return Probed(daemon, tmp_path / "c")


@pytest.fixture
def repeating(daemon: Daemon, probed: Probed) -> None:
    """The daemon has been told to repeat."""
    while not daemon.told:
        assert probed.turn() == ""
    assert [probed.turn(), probed.turn()] == ["", ""]
    daemon.asked.clear()


@pytest.mark.usefixtures("repeating")
def test_it_is_told_once_and_asked_no_more(daemon: Daemon, probed: Probed) -> None:
    before = probed.prober.said["a"]
    assert [probed.turn() for _ in range(5)] == [""] * 5
    assert daemon.asked == [] and probed.prober.said["a"] is before


@pytest.mark.usefixtures("repeating")
def test_another_answer_is_read(daemon: Daemon, probed: Probed) -> None:
    daemon.says = READY.replace(b": 5", b": 6")
    daemon.repeat()
    probed.read("it is read", lambda: probed.prober.said["a"].connections == 6)
    assert daemon.asked == []


@pytest.mark.usefixtures("repeating")
@pytest.mark.parametrize(
    "said", [READY.replace(b"ready", b"draining"), b"nonsense\n", READY[:20], b"[" * 9000 + b"\n", b"x" * 20_000]
)
def test_whatever_but_ready_has_it_asked_at_once(daemon: Daemon, probed: Probed, said: bytes) -> None:
    daemon.says = said
    daemon.repeat()
    probed.results.clear()
    probed.read("it is asked", lambda: probed.results)
    assert probed.results == [""] and daemon.questions() == ["state"], "what it says when it is asked counts"


@pytest.mark.usefixtures("repeating")
def test_one_that_ends_the_connection_is_asked_at_once(daemon: Daemon, probed: Probed) -> None:
    daemon.told[-1].shutdown(socket.SHUT_RDWR)
    probed.results.clear()
    probed.read("it is asked", lambda: probed.results)
    assert daemon.questions() == ["state"]


@pytest.mark.usefixtures("repeating")
def test_one_that_repeats_no_more_is_asked_a_tenth_of_the_interval_later(daemon: Daemon, probed: Probed) -> None:
    probed.turn()
    assert daemon.asked == []
    assert probed.turn(repeats=False) == "" and daemon.questions() == ["state"]
    assert probed.turn() == ""
    probed.read("it is told to repeat again", lambda: any("every" in one for one in daemon.asked))


@pytest.mark.parametrize("first", [REFUSED, READY])
def test_one_that_answers_once_is_asked_each_time(daemon: Daemon, probed: Probed, first: bytes) -> None:
    daemon.first, daemon.repeats = first, False
    assert [probed.turn() for _ in range(8)] == [""] * 8
    assert len(daemon.questions()) >= 5 and len(daemon.asked) - len(daemon.questions()) == 1


@pytest.mark.usefixtures("repeating")
def test_what_it_counts_is_repeated_while_it_is_wanted(daemon: Daemon, probed: Probed) -> None:
    assert probed.prober.counted() == {}
    assert probed.turn() == ""
    wait_for("it tells", lambda: probed.prober.counted().get("a"))
    assert [one["command"] for one in daemon.asked] == ["status"] and "every" in daemon.asked[0]


@pytest.mark.usefixtures("repeating")
def test_its_port_is_connected_to_at_one_of_sixty_probes(daemon: Daemon, probed: Probed) -> None:
    turns = [daemon.served for _ in range(130) if probed.turn() == ""]
    assert len(turns) == 130 and daemon.served - turns[0] in (2, 3)
    assert daemon.asked == []


@pytest.mark.usefixtures("repeating")
def test_one_that_is_not_probed_any_more_has_its_connection_closed(daemon: Daemon, probed: Probed) -> None:
    probed.prober.aim([])
    wait_for("its end is closed", lambda: daemon.told[-1].fileno() == -1)  # by the daemon, which has read that
