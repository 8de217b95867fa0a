"""A daemon that repeats its answer is asked once, and asked again as soon as anything is not as it was."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from pathlib import Path

import pytest

from portfleet.core.policies import Probe
from portfleet.daemons.exchange import Control, Port
from portfleet.daemons.probe import Target
from portfleet.watch.prober import Prober
from portfleet.watch.repeats import Repeats
from portfleet.watch.turns import Turns
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
            with suppress(OSError):  # a test has done so
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
    """The prober of one instance, whose time goes on when a test says so.

    ``content``: whoever gets the results would learn nothing of another success. ``pid`` is the instance's process.
    """

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self.results: list[str] = []
        self.now, self.daemon = 1000.0, daemon
        self.content, self.pid = False, os.getpid()
        self.prober = Prober(self._told, lambda: self.now, lambda _: self.pid)
        place, probe = Port("127.0.0.1", daemon.port.getsockname()[1]), Probe(interval=INTERVAL, timeout=0.5)
        self.prober.aim([Target("a", place, str(path), probe)])

    def _told(self, _: str, trouble: str, __: bool) -> bool:
        self.results.append(trouble)
        return self.content and not trouble

    def beat(self) -> None:
        """Have an interval pass, in steps, in whose middle the daemon repeats its answer."""
        self.steps(5)
        count = self.prober._states._repeated["a"].count
        self.daemon.repeat()
        self.read("the answer is read", lambda: self.prober._states._repeated["a"].count > count)
        self.steps(5)

    def steps(self, number: int) -> None:
        """Have so many tenths of an interval pass; nothing is late because of that."""
        for _ in range(number):
            self.now += INTERVAL / 10
            self.read("no probe is under way", lambda: not self.prober._probes)

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


@pytest.fixture
def resting(probed: Probed, repeating: None) -> None:
    """More successes of it would change nothing, and it has gone through its port just now."""
    probed.content = True
    served = probed.daemon.served
    for _ in range(130):
        probed.beat()
        if probed.daemon.served > served:
            break
    probed.results.clear()
    probed.daemon.asked.clear()


@pytest.mark.usefixtures("resting")
def test_one_that_rests_has_no_results_but_those_of_its_port(daemon: Daemon, probed: Probed) -> None:
    served = daemon.served
    for _ in range(125):
        probed.beat()
    assert daemon.served - served == 2 and daemon.asked == []
    assert probed.results == ["", ""]


@pytest.mark.usefixtures("resting")
def test_what_one_that_rests_says_is_read(daemon: Daemon, probed: Probed) -> None:
    daemon.says = READY.replace(b": 5", b": 6")
    probed.beat()
    assert probed.prober.said["a"].connections == 6 and daemon.asked == [] and probed.results == []


@pytest.mark.usefixtures("resting")
def test_one_that_rests_and_hangs_is_asked_a_tenth_of_the_interval_later(daemon: Daemon, probed: Probed) -> None:
    probed.now += 0.59 * INTERVAL
    assert probed.prober.tick() <= 0.011 * INTERVAL, "the loop is woken for it"
    assert daemon.asked == [] and not probed.prober._probes
    probed.now += 0.011 * INTERVAL
    probed.read("it is asked", lambda: probed.results)
    assert daemon.questions() == ["state"]


@pytest.mark.usefixtures("resting")
@pytest.mark.parametrize("said", [READY.replace(b"ready", b"draining"), b"nonsense\n"])
def test_whatever_but_ready_ends_the_rest_at_once(daemon: Daemon, probed: Probed, said: bytes) -> None:
    daemon.says = said
    daemon.repeat()
    probed.read("it is asked", lambda: probed.results)
    assert daemon.questions() == ["state"]


@pytest.mark.usefixtures("resting")
def test_one_that_rests_and_ends_the_connection_is_asked_at_once(daemon: Daemon, probed: Probed) -> None:
    daemon.told[-1].shutdown(socket.SHUT_RDWR)
    probed.read("it is asked", lambda: probed.results)
    assert daemon.questions() == ["state"]


@pytest.mark.usefixtures("resting")
def test_an_answer_of_another_process_than_the_instances_ends_the_rest(daemon: Daemon, probed: Probed) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        probed.pid = other.pid
        daemon.repeat()
        probed.read("it is probed", lambda: probed.results)
        other.kill()
    assert f"process {os.getpid()} has it, which is none of the instance's" in probed.results[0]


@pytest.mark.usefixtures("resting")
def test_one_whose_success_would_tell_something_takes_its_turns(daemon: Daemon, probed: Probed) -> None:
    probed.content = False
    probed.prober.ask("a")
    probed.read("it is asked", lambda: probed.results)
    assert daemon.questions() == ["state"]
    assert [probed.turn() for _ in range(5)] == [""] * 5
    probed.content = True
    assert probed.turn() == ""
    probed.results.clear()
    for _ in range(5):
        probed.beat()
    assert probed.results == [], "it rests again"


@pytest.mark.usefixtures("resting")
def test_the_port_of_one_that_rests_is_not_put_off_by_questions(daemon: Daemon, probed: Probed) -> None:
    served = daemon.served
    for _ in range(70):
        probed.beat()
        probed.prober.ask("a")
        probed.read("it is asked", lambda: not probed.prober._probes and probed.prober._states.rests("a"))
    assert daemon.served - served == 1


@pytest.mark.usefixtures("resting")
def test_a_port_that_is_closed_is_found_though_the_answers_go_on(daemon: Daemon, probed: Probed) -> None:
    daemon.port.shutdown(socket.SHUT_RDWR)
    for _ in range(62):
        probed.beat()
    assert "ECONNREFUSED" in probed.results[0]
    assert len(probed.results) > 1, "and it is probed each interval again"


@pytest.mark.usefixtures("resting")
def test_one_that_rests_tells_what_it_counts_within_an_interval(daemon: Daemon, probed: Probed) -> None:
    probed.prober.counted()
    probed.beat()
    probed.beat()
    wait_for("it is told", lambda: daemon.asked)
    assert [one["command"] for one in daemon.asked] == ["status"] and "every" in daemon.asked[0]
    wait_for("it tells", lambda: probed.prober.counted().get("a"))
    probed.results.clear()
    for _ in range(5):
        probed.beat()
    assert probed.results == [], "it rests again"
    probed.now += 150.0
    probed.prober.tick()
    wait_for("it is told to end", lambda: daemon.told[-1].fileno() == -1)


@pytest.mark.usefixtures("resting")
def test_one_that_rested_and_was_not_probed_meanwhile_is_probed_within_an_interval(probed: Probed) -> None:
    targets = list(probed.prober._targets.values())
    probed.prober.aim([])
    probed.prober.aim(targets)
    probed.now += INTERVAL
    probed.read("a result", lambda: probed.results)


def test_a_turn_that_is_put_elsewhere_is_not_where_it_was() -> None:
    turns = Turns()
    turns.put("a", 8.0, 1.0)
    turns.put("b", 2.0, 1.0)
    turns.put("a", 1.0, 1.0)
    assert turns.take(9.0) == ("a", 1.0)
    turns.put("a", 4.0, 1.0)
    assert [turns.take(9.0), turns.take(9.0), turns.take(9.0)] == [("b", 2.0), ("a", 4.0), None]
    assert turns.left(0.0) == inf


def test_whoever_was_heard_longest_ago_is_late_first(daemon: Daemon, tmp_path: Path) -> None:
    now, place = 0.0, Control(str(tmp_path / "c"), os.getpid())
    states = Repeats("state", lambda: now, lambda _: os.getpid())
    for name in ("first", "second", "third"):
        states.begin(name, place, INTERVAL)
        now += 0.25
    assert [states.rest(name) for name in ("third", "first", "second", "unknown")] == [True, True, True, False]
    assert (states.overdue(), round(states.left(1.0), 6)) == ([], 0.1)
    now = 1.4
    assert states.overdue() == ["first", "second"]
    assert states.wake("first") and not states.wake("first")
    assert states.overdue() == ["second"]
    states.end("second")
    assert (states.overdue(), round(states.left(1.6), 6)) == ([], 0.0)
    states.end_all()
    assert states.left(1.5) == inf
