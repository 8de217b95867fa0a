"""Established connections change their process and their clients notice nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from portfleet_daemon.handoff.wire import HEADER, Kind, pack
from support.daemons import Client, Daemon, Daemons, wait_for

WHOAMI = "portfleet_daemon.handlers:whoami"


def sockets_of(pid: int) -> int:
    """Established TCP sockets among a process's descriptors, by the kernel's own tables.

    The tables are no snapshot: while thousands of other sockets come and go, rows are read twice or missed.
    """
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] in ("01", "08"):
                inodes.add(fields[9])
    links = [_link(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return sum(link.startswith("socket:[") and link[8:-1] in inodes for link in links)


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except FileNotFoundError:
        return ""


def owns(daemon: Daemon, number: int) -> bool:
    """Whether it says so and the kernel does."""
    wait_for(lambda: sockets_of(daemon.pid) == number, f"{number} sockets of {daemon.pid}")
    return bool(daemon.status()["connections"] == number)


def four_tuple(client: Client) -> tuple[Any, ...]:
    return (*client.sock.getpeername()[:2], *client.sock.getsockname()[:2])


def test_the_pid_behind_changes_and_the_four_tuple_does_not(daemons: Daemons) -> None:
    old, new = daemons.start(handler=WHOAMI), daemons.start(handler=WHOAMI)
    clients = [old.connect() for _ in range(299)] + [old.connect("::1")]
    before = [four_tuple(client) for client in clients]
    assert all(f"pid={old.pid} ".encode() in client.ask(b"?\n") for client in clients)
    answers = old.stream(command="handoff", to=new.control)
    assert answers[-1] == {"ok": True, "event": "done", "moved": 300, "remaining": 0}
    assert all(f"pid={new.pid} ".encode() in client.ask(b"?\n") for client in clients)
    assert [four_tuple(client) for client in clients] == before
    reported = [tuple(four) for answer in answers[:-1] for four in answer["connections"]]
    assert sorted(reported) == sorted(before)
    assert owns(old, 0) and owns(new, 300)
    with old.connect() as fresh:
        assert f"pid={old.pid} ".encode() in fresh.ask(b"?\n")  # the listener was not handed over


@pytest.mark.parametrize("names", [True, False])
def test_progress_lines_carry_four_tuples_unless_names_is_false(daemons: Daemons, names: bool) -> None:
    old, new = daemons.start(), daemons.start()
    clients = [old.connect() for _ in range(500)]
    old.until(connections=500)
    answers = old.stream(command="handoff", to=new.control, names=names)
    assert answers[-1] == {"ok": True, "event": "done", "moved": 500, "remaining": 0}
    assert len(answers) > 2
    for answer in answers[:-1]:
        assert set(answer) == {"ok", "event", "moved", "remaining"} | ({"connections"} if names else set())
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)


def test_names_is_true_or_false(daemons: Daemons) -> None:
    daemon = daemons.start()
    answer = daemon.ask(command="handoff", to="/nowhere", names=0)
    assert not answer["ok"] and "names is no boolean" in answer["error"] and answer["hint"]


def test_a_number_of_connections_moves(daemons: Daemons) -> None:
    old, new = daemons.start(), daemons.start()
    clients = [old.connect() for _ in range(100)]
    old.until(connections=100)
    assert old.stream(command="handoff", to=new.control, count=30)[-1]["remaining"] == 70
    assert (old.status()["connections"], new.status()["connections"]) == (70, 30)
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)


def test_three_in_a_row_and_the_counts_equal_the_sockets(daemons: Daemons) -> None:
    fleet = [daemons.start(handler=WHOAMI) for _ in range(4)]
    clients = [fleet[0].connect() for _ in range(50)]
    fleet[0].until(connections=50)
    for giver, taker in pairwise(fleet):
        assert giver.stream(command="handoff", to=taker.control)[-1]["ok"]
        clients += [taker.connect() for _ in range(10)]
        taker.until(connections=len(clients))
    assert all(f"pid={fleet[3].pid} ".encode() in client.ask(b"?\n") for client in clients)
    assert all(owns(daemon, number) for daemon, number in zip(fleet, (0, 0, 0, 80), strict=True))


def test_partial_requests_unsent_replies_and_half_closes_go_along(daemons: Daemons) -> None:
    old, new = daemons.start(handler="sample:big"), daemons.start(handler="sample:big")
    partial, unread, piped = old.connect(), old.connect(), old.connect()
    partial.send(b"a")
    unread.send(b"b\n" * 200)  # 20 MB of replies: some unsent, some requests unanswered
    unread.sock.shutdown(socket.SHUT_WR)
    piped.send(b"c\nd")
    assert piped.receive(100_001) == b"c" * 100_000 + b"\n"
    wait_for(lambda: old.status()["bytes_in"] == 404, "all requests read")
    assert old.stream(command="handoff", to=new.control)[-1]["moved"] == 3
    old.process.kill()
    partial.send(b"\n")
    assert partial.receive(100_001) == b"a" * 100_000 + b"\n"
    assert unread.receive(10**8) == (b"b" * 100_000 + b"\n") * 200
    piped.send(b"\n")
    assert piped.receive(100_001) == b"d" * 100_000 + b"\n"
    new.until(connections=2)


def test_handler_state_goes_along(daemons: Daemons) -> None:
    old, new = daemons.start(handler="sample:Counter"), daemons.start(handler="sample:Counter")
    with old.connect() as client:
        assert [client.ask(b"a\n"), client.ask(b"b\n")] == [b"a 1\n", b"b 2\n"]
        client.send(b"par")
        wait_for(lambda: old.status()["bytes_in"] == 7, "the part")
        assert old.stream(command="handoff", to=new.control)[-1]["moved"] == 1
        assert client.ask(b"t\n") == b"part 3\n"
    new.until(connections=0)
    assert "disconnected 3" in new.log
    assert "disconnected" not in old.log


def test_state_without_export_is_refused(daemons: Daemons) -> None:
    old, new = daemons.start(handler="sample:Stateful"), daemons.start(handler="sample:Counter")
    assert old.status()["handoff"] == []
    with old.connect() as client:
        assert client.ask(b"a\n") == b"a\n"
        answer = old.stream(command="handoff", to=new.control)[-1]
        assert not answer["ok"] and "export_state" in answer["error"]
        assert client.ask(b"b\n") == b"b\n"


@pytest.mark.parametrize("flags", [(), ("--workers", "1")])
def test_requests_in_flight_finish_first(daemons: Daemons, flags: tuple[str, ...]) -> None:
    handler = "sample:blocking" if flags else "sample:slow"
    old, new = daemons.start(*flags, handler=handler), daemons.start(*flags, handler=handler)
    with old.connect() as client, old.connect() as idle:
        assert idle.ask(b"x\n") == b"x\n"
        client.send(b"wait0.3\nnext\n")
        wait_for(lambda: old.status()["bytes_in"] >= 14, "the request")
        assert old.stream(command="handoff", to=new.control)[-1] == {
            "ok": True, "event": "done", "moved": 2, "remaining": 0,
        }  # fmt: skip
        assert client.receive(13) == b"wait0.3\nnext\n"
        assert old.status()["requests"] >= 2


def test_those_that_stay_are_untouched_by_the_closing_of_their_neighbours(daemons: Daemons) -> None:
    """Copies are closed by ranges of numbers where there are no gaps; here every third connection is one."""
    old, new = daemons.start(handler="sample:slow"), daemons.start(handler="sample:slow")
    clients = [old.connect() for _ in range(150)]
    old.until(connections=150)
    for client in clients[::3]:
        client.send(b"wait2\n")
    wait_for(lambda: old.status()["bytes_in"] == 300, "the requests")
    last = old.stream(command="handoff", to=new.control, deadline=0.2)[-1]
    assert (last["moved"], last["remaining"]) == (100, 50)
    assert owns(old, 50) and owns(new, 100)
    assert all(client.line() == b"wait2\n" for client in clients[::3])
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)


def test_what_does_not_finish_in_time_stays(daemons: Daemons) -> None:
    old, new = daemons.start(handler="sample:slow"), daemons.start(handler="sample:slow")
    with old.connect() as client, old.connect() as idle:
        assert idle.ask(b"x\n") == b"x\n"
        client.send(b"wait1.5\n")
        wait_for(lambda: old.status()["bytes_in"] >= 10, "the request")
        last = old.stream(command="handoff", to=new.control, deadline=0.2)[-1]
        assert (last["moved"], last["remaining"]) == (1, 1)
        assert client.line() == b"wait1.5\n"


def test_the_listener_goes_with_what_waits_in_its_backlog(daemons: Daemons) -> None:
    old, new = daemons.start("--max-connections", "5", handler=WHOAMI), daemons.start(handler=WHOAMI)
    clients = [old.connect() for _ in range(40)]
    for client in clients:
        client.send(b"?\n")
    wait_for(lambda: old.status()["requests"] == 5, "five served, the others wait in the backlog")
    assert old.stream(command="handoff", to=new.control, listener=True)[-1]["remaining"] == 0
    pids = [client.line() for client in clients]
    assert sum(f"pid={new.pid} ".encode() in pid for pid in pids) == 35
    assert all(f"pid={new.pid} ".encode() in client.ask(b"?\n") for client in clients)
    assert old.status()["state"] == "draining"

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", old.port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass  # new handshakes are ignored for a moment before the end
        return False

    wait_for(refused, "the receiver closes the listener once it is empty")
    successor = daemons.start(handler=WHOAMI, port=old.port, name="successor")  # while `new` owns connections of it
    assert successor.port == old.port


def test_resume_while_the_receiver_has_the_listener_is_an_error_and_later_works(daemons: Daemons) -> None:
    old, new = daemons.start(handler=WHOAMI), daemons.start(handler=WHOAMI)
    with old.connect() as client:
        assert old.stream(command="handoff", to=new.control, listener=True)[-1]["ok"]
        answer = old.ask(command="resume")
        assert not answer["ok"] and f"port {old.port} is taken" in answer["error"] and answer["hint"]
        assert old.status()["state"] == "draining"
        wait_for(lambda: old.ask(command="resume")["ok"], "the receiver to close the listener")
        assert old.status()["state"] == "ready"
        with old.connect() as fresh:
            assert f"pid={old.pid} ".encode() in fresh.ask(b"?\n")
        assert f"pid={new.pid} ".encode() in client.ask(b"?\n")


class Load:
    """Clients that send numbered requests and check the order of the replies, in a thread."""

    def __init__(self, clients: list[Client], *, fragments: bool = False) -> None:
        self.clients, self.fragments = clients, fragments
        self.answered, self.wrong = 0, list[str]()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        chooser, number = random.Random(1), 0
        while not self.stop.is_set():
            some = chooser.sample(self.clients, 20)
            number += 1
            for index, client in enumerate(some):
                request = b"%d.%d\n" % (number, index)
                if self.fragments:
                    for byte in request:
                        client.send(bytes([byte]))
                else:
                    client.send(request)
            for index, client in enumerate(some):
                reply = client.line()
                if reply != b"%d.%d\n" % (number, index):
                    self.wrong.append(f"{number}.{index}: {reply!r}")
                    self.stop.set()
                self.answered += 1

    def end(self) -> None:
        self.stop.set()
        self.thread.join()
        assert not self.wrong, self.wrong


@pytest.mark.parametrize("fragments", [False, True])
def test_under_load_nothing_is_lost_doubled_or_mixed_up(daemons: Daemons, fragments: bool) -> None:
    one, two = daemons.start(), daemons.start()
    load = Load([one.connect() for _ in range(800)], fragments=fragments)
    try:
        one.until(connections=800)
        for giver, taker in (one, two), (two, one), (one, two):
            assert giver.stream(command="handoff", to=taker.control)[-1]["moved"] == 800
        seen = load.answered
        wait_for(lambda: load.answered > seen + 100 or load.wrong, "the load goes on")
    finally:
        load.end()
    assert two.status()["connections"] == 800


class HandingOff:
    """A hand-off in a thread; `end` waits for it and gives all answers."""

    def __init__(self, sender: Daemon, to: str, **keys: Any) -> None:
        self._answers: list[dict[str, Any]] = []
        self._thread = threading.Thread(
            target=lambda: self._answers.extend(sender.stream(command="handoff", to=to, **keys))
        )
        self._thread.start()

    def end(self) -> list[dict[str, Any]]:
        self._thread.join()
        return self._answers


def test_a_receiver_killed_in_mid_way_costs_only_what_it_had_acknowledged(daemons: Daemons) -> None:
    old, new = daemons.start(handler="sample:Hanging"), daemons.start(handler="sample:Hanging")
    clients = [old.connect() for _ in range(1000)]
    old.until(connections=1000)
    handing = HandingOff(old, new.control)
    wait_for(lambda: old.status()["connections"] <= 700, "the receiver to hang at its 300th connection")
    os.kill(new.pid, signal.SIGKILL)
    answers = handing.end()
    last = answers[-1]
    assert not last["ok"] and last["moved"] + last["remaining"] == 1000
    assert 300 <= last["moved"] < 1000
    assert sum(len(answer["connections"]) for answer in answers[:-1]) == last["moved"]  # reported to the last one
    for client in clients:
        client.send(b"x\n")
    alive = sum(_answers(client) for client in clients)
    assert alive == last["remaining"] == old.status()["connections"]


def _answers(client: Client) -> bool:
    try:
        return client.line() == b"x 1\n"
    except ConnectionError:
        return False


def test_a_receiver_stopped_in_mid_way_holds_up_only_what_is_in_flight(daemons: Daemons) -> None:
    """Frozen after its first batches, then killed: all it had not acknowledged is served by the sender again."""
    old, new = daemons.start(), daemons.start()
    clients = [old.connect() for _ in range(500)]
    clients[0].send(b"par")
    old.until(connections=500)
    os.kill(new.pid, signal.SIGSTOP)
    handing = HandingOff(old, new.control)
    wait_for(lambda: "handoff " in old.log, "the hand-off to begin")
    second = old.ask(command="handoff", to=new.control)
    assert (second["ok"], second["code"]) == (False, "busy")
    os.kill(new.pid, signal.SIGKILL)
    os.kill(new.pid, signal.SIGCONT)
    answers = handing.end()
    assert (answers[-1]["ok"], answers[-1]["code"], answers[-1]["remaining"]) == (False, "refused", 500)
    assert clients[0].ask(b"t\n") == b"part\n"
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)


def test_refusals_name_their_reason_and_cost_nothing(daemons: Daemons, tmp_path: Path) -> None:
    old, resp, small = daemons.start(), daemons.start("--framing", "resp"), daemons.start("--max-connections", "10")
    clients = [old.connect() for _ in range(20)]
    old.until(connections=20)

    def error(to: str) -> str:
        answer = old.stream(command="handoff", to=to)[-1]
        assert not answer["ok"] and answer["hint"]
        return str(answer["error"])

    assert "framing is resp" in error(resp.control)
    assert "itself" in error(old.control)
    assert "No such file" in error(str(tmp_path / "none.sock"))
    small.ask(command="drain")
    assert "not ready" in error(small.control)
    small.ask(command="resume")
    last = old.stream(command="handoff", to=small.control)[-1]
    assert (last["moved"], last["remaining"]) == (10, 10)
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)


def test_versions_are_negotiated(daemons: Daemons) -> None:
    daemon = daemons.start()
    answer = daemon.ask(command="receive", versions=[3, 2, 1], framing="line", stateful=False, later="key")
    assert answer["ok"] and answer["version"] == 2
    answer = daemon.ask(command="receive", versions=[3], framing="line", stateful=False)
    assert not answer["ok"] and "no common version" in answer["error"]


class FakeReceiver:
    """A receiver by the document, in the test's own hands."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self.owned: list[int] = []  #: descriptors of what it acknowledged
        self.sequences: list[int] = []

    def __enter__(self) -> FakeReceiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for fd in self.owned:
            os.close(fd)

    def answer(self, line: bytes, *, end: bytes = b"\n") -> dict[str, Any]:
        """Be connected to and answer `line`; return what the sender had said."""
        self._listener.settimeout(10)
        self._sock, _ = self._listener.accept()
        self._sock.settimeout(10)
        said: dict[str, Any] = json.loads(self._sock.recv(4096))
        self._sock.sendall(line + end)
        return said

    def take_one(self) -> None:
        """Take in a message and acknowledge it."""
        header, descriptors, _, _ = socket.recv_fds(self._sock, 12, 253)
        _, _, count, sequence, length = HEADER.unpack(header)
        while length:
            length -= len(self._sock.recv(length))
        self.owned += descriptors
        self._sock.sendall(pack(Kind.ACK, count=count, sequence=sequence))

    def acknowledge(self) -> None:
        """Acknowledge what would be the first message, whether it is read or not."""
        self._sock.sendall(pack(Kind.ACK, count=1, sequence=1))

    def sockets(self) -> list[socket.socket]:
        """Return what it owns as sockets, which are its own descriptors."""
        return [socket.socket(fileno=os.dup(fd)) for fd in self.owned]

    def close(self) -> None:
        """End."""
        self._sock.close()

    def take(self, *, most: int = 1000, before_end: Callable[[], None] = lambda: None) -> None:
        """Acknowledge `most` messages and refuse the next, or all; `before_end` is called before the last."""
        while True:
            header, descriptors, _, _ = socket.recv_fds(self._sock, 12, 253)
            kind, _, count, sequence, length = HEADER.unpack(header)
            while length:
                length -= len(self._sock.recv(length))
            self.sequences.append(sequence)
            if len(self.sequences) > most:
                for fd in descriptors:
                    os.close(fd)
                self._sock.sendall(pack(Kind.REFUSE, count=0, sequence=sequence, body=b"enough"))
                self._sock.close()
                return
            self.owned += descriptors
            if kind == Kind.END:
                before_end()
            self._sock.sendall(pack(Kind.ACK, count=count, sequence=sequence))
            if kind == Kind.END:
                self._sock.close()
                return


def test_a_receiver_that_refuses_in_mid_way_has_what_it_acknowledged_and_no_more(
    daemons: Daemons, tmp_path: Path
) -> None:
    old = daemons.start()
    clients = [old.connect() for _ in range(600)]
    old.until(connections=600)
    with FakeReceiver(tmp_path / "fake.sock") as fake:
        handing = HandingOff(old, fake.path)
        fake.answer(b'{"ok": true, "version": 1, "room": 1000}')
        fake.take(most=2)
        answers = handing.end()
        last = answers[-1]
        assert not last["ok"] and "it refused: enough" in last["error"] and last["hint"]
        assert (last["moved"], last["remaining"]) == (len(fake.owned), 600 - len(fake.owned))
        assert 0 < last["moved"] < 600
        moved = {four[3] for answer in answers[:-1] for four in answer["connections"]}
        here = [client for client in clients if client.sock.getsockname()[1] not in moved]
        assert len(here) == last["remaining"]
        assert all(client.ask(b"x\n") == b"x\n" for client in here)
    assert old.stream(command="handoff", to=daemons.start().control)[-1]["moved"] == len(here)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"ok": true, "version": 9, "room": 10}', "it chose version 9"),
        (b'{"ok": false, "error": "no common version: [1] there, [9] here"}', "no common version"),
        (b'{"ok": true}', "makes no sense"),
        (b"[" * 60_000, "makes no sense"),
    ],
)
def test_a_sender_offers_its_versions_and_takes_no_other(
    daemons: Daemons, tmp_path: Path, line: bytes, said: str
) -> None:
    old = daemons.start()
    with old.connect() as client, FakeReceiver(tmp_path / "fake.sock") as fake:
        assert client.ask(b"a\n") == b"a\n"
        handing = HandingOff(old, fake.path)
        assert fake.answer(line)["versions"] == old.status()["handoff"] == [1, 2]
        last = handing.end()[-1]
        assert not last["ok"] and said in last["error"] and last["hint"] is not None
        assert last["remaining"] == 1
        assert client.ask(b"b\n") == b"b\n"


def test_messages_are_numbered_without_a_gap_also_while_there_is_nothing_to_send(
    daemons: Daemons, tmp_path: Path
) -> None:
    old = daemons.start(handler="sample:slow")
    with old.connect() as busy, old.connect() as idle, FakeReceiver(tmp_path / "fake.sock") as fake:
        assert idle.ask(b"x\n") == b"x\n"
        busy.send(b"wait0.3\n")
        wait_for(lambda: old.status()["bytes_in"] >= 10, "the request")
        handing = HandingOff(old, fake.path)
        fake.answer(b'{"ok": true, "version": 1, "room": 1000}')
        fake.take()
        assert handing.end()[-1]["moved"] == 2
        assert fake.sequences == [1, 2, 3]


def test_a_state_that_cannot_be_exported_stays_and_costs_the_others_nothing(daemons: Daemons) -> None:
    old, new = daemons.start(handler="sample:Picky"), daemons.start(handler="sample:Picky")
    clients = [old.connect() for _ in range(200)]
    asked = [1 + number % 5 for number in range(200)]  # 40 have no state that goes, 40 one of the wrong type
    for client, requests in zip(clients, asked, strict=True):
        assert [client.ask(b"x\n") for _ in range(requests)][-1] == b"x %d\n" % requests
    began = time.monotonic()
    last = old.stream(command="handoff", to=new.control)[-1]
    assert time.monotonic() - began < 10, "it waits for what will never go"
    assert last == {"ok": True, "event": "done", "moved": 120, "remaining": 80}
    for client, requests in zip(clients, asked, strict=True):
        assert client.ask(b"x\n") == b"x %d\n" % (requests + 1)
    assert (old.status()["connections"], new.status()["connections"]) == (80, 120)
    assert old.log.count("Traceback") == 2


def test_what_is_to_be_closed_is_closed_by_the_receiver_and_answered_no_more(daemons: Daemons) -> None:
    old, new = daemons.start("--framing", "sample:Loud"), daemons.start("--framing", "sample:Loud")
    with old.connect() as client:
        client.send(b"a|!|")
        old.until(errors=1)
        client.send(b"b|")  # after the error, whose reply is too large to have been sent
        assert old.stream(command="handoff", to=new.control)[-1]["moved"] == 1
        assert client.receive(30_000_000) == b"a|" + b"e" * 20_000_000 + b"|"
    assert new.until(connections=0)["requests"] == 0


def test_a_hand_off_after_sigterm_has_its_last_line(daemons: Daemons, tmp_path: Path) -> None:
    """No connection is left before the last message is acknowledged; the daemon must not end before that."""
    old = daemons.start()

    def is_there() -> None:
        with pytest.raises(subprocess.TimeoutExpired):
            old.process.wait(0.5)

    with old.connect() as client, FakeReceiver(tmp_path / "fake.sock") as fake:
        assert client.ask(b"x\n") == b"x\n"
        old.process.terminate()
        old.until(state="draining")
        handing = HandingOff(old, fake.path)
        fake.answer(b'{"ok": true, "version": 1, "room": 1000}')
        fake.take(before_end=is_there)
        assert handing.end()[-1] == {"ok": True, "event": "done", "moved": 1, "remaining": 0}
        assert old.process.wait(10) == 0


def test_a_killed_sender_leaves_whole_messages_to_the_receiver(daemons: Daemons) -> None:
    """By the document, from a sender of our own that dies without waiting for an acknowledgement."""
    daemon: Daemon = daemons.start()
    ours, theirs = _tcp_pair()
    lost_peer, lost = _tcp_pair()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(daemon.control)
        sock.sendall(b'{"command": "receive", "versions": [1], "framing": "line", "stateful": false}\n')
        assert b'"version": 1' in sock.recv(4096)
        whole = bytes.fromhex("02000001 00000001 00000013") + bytes.fromhex("00000000 00000003 00000000 00000000")
        socket.send_fds(sock, [whole + b"PIN"], [theirs.fileno()])
        cut = bytes.fromhex("02000001 00000002 00000010") + bytes(8)
        socket.send_fds(sock, [cut], [lost.fileno()])
    theirs.close()
    lost.close()
    client = Client(ours)
    assert client.ask(b"G\n") == b"PING\n"
    assert Client(lost_peer).closed()
    assert daemon.until(connections=1)


@pytest.mark.parametrize(
    "message",
    [
        "09000000 00000001 00000000",
        "02000001 00000001 00000010",
        "02000000 00000001 ffffffff",
        "02000000 00000001 00000004",
    ],
)
def test_nonsense_is_refused(daemons: Daemons, message: str) -> None:
    daemon = daemons.start()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(daemon.control)
        sock.sendall(b'{"command": "receive", "versions": [1], "framing": "line", "stateful": false}\n')
        sock.recv(4096)
        sock.sendall(bytes.fromhex(message) + bytes(16))
        assert sock.recv(4096)[0] == 17
    assert daemon.status()["state"] == "ready"


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=10)
        theirs, _ = listener.accept()
    theirs.setblocking(False)
    return ours, theirs
