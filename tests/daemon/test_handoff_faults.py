"""The other side of a hand-off hangs, lies or sends what it must not: no connection is lost, doubled or kept."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from portfleet_daemon.handoff.channel import ACKNOWLEDGE_WITHIN
from portfleet_daemon.handoff.wire import LONGEST_BODY, Kind, pack, pack_parcels
from support.daemons import Client, Daemon, Daemons, wait_for

from .test_handoff import FakeReceiver, HandingOff

AGREES = b'{"ok": true, "version": 1, "room": 1000}'
RECEIVE = b'{"command": "receive", "versions": [1], "framing": "line", "stateful": false}\n'


def descriptors_of(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def test_a_receiver_that_never_acknowledges_gets_nothing(daemons: Daemons, tmp_path: Path) -> None:
    old = daemons.start()
    clients = [old.connect() for _ in range(300)]
    clients[0].send(b"par")
    old.until(connections=300, bytes_in=3)
    before = descriptors_of(old)
    with FakeReceiver(tmp_path / "fake.sock") as fake:
        handing = HandingOff(old, fake.path, listener=True)
        began = time.monotonic()
        fake.answer(AGREES)
        last = handing.end()[-1]
        assert ACKNOWLEDGE_WITHIN <= time.monotonic() - began < ACKNOWLEDGE_WITHIN + 5
        assert not last["ok"] and (last["moved"], last["remaining"]) == (0, 300)
        assert f"acknowledged nothing for {ACKNOWLEDGE_WITHIN:g} s" in last["error"]
        assert f"kill {os.getpid()}" in last["hint"]
        with old.connect() as fresh:  # its listener is its own again
            assert fresh.ask(b"x\n") == b"x\n"
        assert clients[0].ask(b"t\n") == b"part\n"
        assert all(client.ask(b"x\n") == b"x\n" for client in clients)
        old.ask(command="drain")
        assert old.ask(command="resume")["state"] == "ready"
        with pytest.raises(BrokenPipeError):
            fake.acknowledge()
        fake.close()
    wait_for(lambda: descriptors_of(old) <= before, "the held socket is closed with the receiver's end")
    assert "handoff-failed" in old.log and fake.path in old.log


def test_what_was_acknowledged_in_the_last_moment_is_the_receivers(daemons: Daemons, tmp_path: Path) -> None:
    """The receiver acknowledges the first message and then no more: 128 have moved, and only those."""
    old = daemons.start()
    clients = [old.connect() for _ in range(300)]
    old.until(connections=300)
    with FakeReceiver(tmp_path / "fake.sock") as fake:
        handing = HandingOff(old, fake.path)
        fake.answer(AGREES)
        fake.take_one()
        last = handing.end()[-1]
        assert not last["ok"] and (last["moved"], last["remaining"]) == (128, 172)
        assert "; served here again: 172" in last["error"]
        mine = {sock.getpeername()[1] for sock in fake.sockets()}
        here = [client for client in clients if client.sock.getsockname()[1] not in mine]
        assert len(here) == 172 and all(client.ask(b"x\n") == b"x\n" for client in here)


def test_a_receiver_that_comes_to_life_again_finds_nothing_to_take(daemons: Daemons) -> None:
    (daemons.directory / "sleepy.py").write_text(
        "import sample, time\n\nclass Sleepy(sample.Counter):\n    imported = 0\n"
        "    def import_state(self, conn, blob):\n        super().import_state(conn, blob)\n"
        "        self.imported += 1\n        if self.imported == 100:\n"
        f"            time.sleep({ACKNOWLEDGE_WITHIN + 2})\n"
    )
    old, new = daemons.start(handler="sleepy:Sleepy"), daemons.start(handler="sleepy:Sleepy")
    clients = [old.connect() for _ in range(400)]
    assert all(client.ask(b"x\n") == b"x 1\n" for client in clients)
    last = old.stream(command="handoff", to=new.control)[-1]
    assert not last["ok"] and (last["moved"], last["remaining"]) == (128, 272)
    stays = [client for client in clients[128:] if client.ask(b"x\n") == b"x 2\n"]
    assert len(stays) == 272
    wait_for(lambda: "handoff-received" in new.log, "the receiver awakes")
    assert "the sender has taken these connections back" in new.log
    assert new.until(connections=128)
    assert all(client.ask(b"x\n") == b"x 3\n" for client in stays)
    assert all(client.ask(b"x\n") == b"x 2\n" for client in clients[:128])
    again = old.stream(command="handoff", to=new.control)[-1]
    assert again == {"ok": True, "event": "done", "moved": 272, "remaining": 0}
    assert all(client.ask(b"x\n") == b"x 4\n" for client in stays)


@pytest.mark.parametrize("line", [b"", b"[" * 70_000, b'{"ok": true, "version": 1, "room": -5}', b'{"ok": 1}', b"3"])
def test_a_receiver_that_does_not_answer_properly_is_refused(daemons: Daemons, tmp_path: Path, line: bytes) -> None:
    """Nothing, or no end, or nonsense; nothing has left by then."""
    old = daemons.start()
    with old.connect() as client, FakeReceiver(tmp_path / "fake.sock") as fake:
        assert client.ask(b"a\n") == b"a\n"
        handing = HandingOff(old, fake.path)
        fake.answer(line, end=b"\n" if line else b"")
        last = handing.end()[-1]
        assert not last["ok"] and last["hint"] and last["remaining"] == 1
        assert client.ask(b"b\n") == b"b\n"
    assert "Traceback" not in old.log


class FakeSender:
    """A sender by the document, in the test's own hands."""

    def __init__(self, receiver: Daemon) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(receiver.control)
        self.sock.sendall(RECEIVE)
        assert b'"version": 1' in self.sock.recv(4096)

    def send(self, kind: Kind, descriptors: list[int], body: bytes) -> int:
        """Return the type of the answer."""
        message = pack(kind, count=len(descriptors), sequence=1, body=body)
        socket.send_fds(self.sock, [message], descriptors)
        return self.sock.recv(4096)[0]


@pytest.fixture
def pair() -> Iterator[tuple[Client, socket.socket]]:
    """Both ends of a TCP connection; the second blocks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=10)
        theirs, _ = listener.accept()
    with Client(ours) as client, theirs:
        yield client, theirs


def test_a_descriptor_that_blocks_is_made_not_to(daemons: Daemons, pair: tuple[Client, socket.socket]) -> None:
    daemon = daemons.start()
    client, theirs = pair
    assert theirs.getblocking()
    sender = FakeSender(daemon)
    assert sender.send(Kind.CONNECTIONS, [theirs.fileno()], bytes(16)) == Kind.ACK
    assert client.ask(b"x\n") == b"x\n"
    client.send(b"par")
    with daemon.connect() as other:  # the daemon does not hang in a read
        assert other.ask(b"y\n") == b"y\n"
    assert client.ask(b"t\n") == b"part\n"


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _unix() -> socket.socket:
    return socket.socketpair()[0]


def _listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def _unix_listener() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")
    sock.listen()
    return sock


def _netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)


def _file() -> Any:
    return Path(__file__).open("rb")


def _pipe() -> Any:
    read, write = os.pipe()
    os.close(write)
    return os.fdopen(read, "rb")


@pytest.mark.parametrize("make", [_udp, _unix, _listener, _unix_listener, _netlink, _file, _pipe])
def test_what_is_no_connection_is_refused_and_the_batch_with_it(
    daemons: Daemons, pair: tuple[Client, socket.socket], make: Callable[[], Any]
) -> None:
    daemon = daemons.start()
    client, theirs = pair
    before = descriptors_of(daemon)
    with make() as wrong:
        blocking = os.get_blocking(wrong.fileno())
        sender = FakeSender(daemon)
        batch = [theirs.fileno(), wrong.fileno()]
        assert sender.send(Kind.CONNECTIONS, batch, bytes(32)) == Kind.REFUSE
        assert os.get_blocking(wrong.fileno()) == blocking
        if make is not _listener:
            sender = FakeSender(daemon)
            assert sender.send(Kind.LISTENERS, [wrong.fileno()], b"") == Kind.REFUSE
    assert daemon.until(connections=0)
    wait_for(lambda: descriptors_of(daemon) <= before, "its copies are closed")
    theirs.sendall(b"still the sender's")
    assert client.receive(18) == b"still the sender's"
    assert "Traceback" not in daemon.log


def test_a_connection_whose_client_is_gone_is_taken_and_closed(
    daemons: Daemons, pair: tuple[Client, socket.socket]
) -> None:
    daemon = daemons.start()
    client, theirs = pair
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.sock.close()
    assert FakeSender(daemon).send(Kind.CONNECTIONS, [theirs.fileno()], bytes(16)) == Kind.ACK
    assert daemon.until(connections=0)


@pytest.mark.parametrize(
    "header",
    [
        pack(Kind.CONNECTIONS, count=0, sequence=1)[:8] + (1 << 28).to_bytes(4, "big"),
        pack(Kind.CONNECTIONS, count=0, sequence=1)[:8] + (LONGEST_BODY + 1).to_bytes(4, "big"),
        pack(Kind.END, count=0, sequence=1)[:8] + (1).to_bytes(4, "big"),
        pack(Kind.LISTENERS, count=0, sequence=1)[:8] + (1 << 20).to_bytes(4, "big"),
    ],
)
def test_a_body_over_the_limit_is_refused_at_its_header(daemons: Daemons, header: bytes) -> None:
    daemon = daemons.start()
    before = daemon.rss()
    sender = FakeSender(daemon)
    sender.sock.sendall(header)
    assert sender.sock.recv(4096)[0] == Kind.REFUSE
    assert daemon.rss() - before < 2_000_000


def test_a_connection_too_large_for_a_message_stays(daemons: Daemons) -> None:
    (daemons.directory / "huge.py").write_text(f"def respond(request):\n    return request * {LONGEST_BODY}\n")
    old, new = daemons.start(handler="huge:respond"), daemons.start(handler="huge:respond")
    with old.connect() as large, old.connect() as small:
        large.send(b"x\n")
        wait_for(lambda: old.status()["requests"] == 1, "its reply")
        last = old.stream(command="handoff", to=new.control)[-1]
        assert (last["ok"], last["moved"], last["remaining"]) == (True, 1, 1)
        assert len(large.receive(LONGEST_BODY + 1)) == LONGEST_BODY + 1
        small.send(b"\n")
        assert small.line() == b"\n"


def test_a_sender_that_gives_up_while_the_receiver_reads_nothing_owns_everything(daemons: Daemons) -> None:
    """By the document: reading shut down, socket open. The receiver's acknowledgement fails, so it takes nothing."""
    daemon = daemons.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(socket.create_connection(listener.getsockname(), timeout=10))
        theirs, _ = listener.accept()
    sender = FakeSender(daemon)
    sender.sock.shutdown(socket.SHUT_RD)
    message = pack(Kind.CONNECTIONS, count=1, sequence=1, body=pack_parcels([], version=1) + bytes(16))
    socket.send_fds(sender.sock, [message], [theirs.fileno()])
    wait_for(lambda: "taken these connections back" in daemon.log, "the receiver notices")
    assert daemon.status()["connections"] == 0
    with client, theirs:
        client.send(b"x\n")
        assert theirs.recv(10) == b"x\n"
