"""The C daemon of examples/c-daemon, built by cc: it and the Python daemon hand live connections to each other."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemons import Client, Daemon, Daemons, daemons_in, wait_for

from .test_handoff import FakeReceiver, HandingOff

SOURCE = Path(__file__).parents[2] / "examples" / "c-daemon" / "daemon.c"
WHOAMI = "portfleet_daemon.handlers:whoami"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The daemon, built without a warning."""
    assert shutil.which("cc"), "no C compiler: script/setup --tests"
    target = tmp_path_factory.mktemp("c") / "c-daemon"
    flags = ["-std=gnu11", "-O2", "-pthread", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", target, SOURCE], check=True)
    return target


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    with daemons_in(tmp_path) as started:
        yield started


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])


def start_c(daemons: Daemons, program: Path, *, name: str = "c", descriptors: int = 4096) -> Daemon:
    control, log_path, port = str(daemons.directory / f"{name}.sock"), daemons.directory / f"{name}.log", free_port()
    environment = {**os.environ, "PORTFLEET_CONTROL": control, "PORTFLEET_INSTANCE": name}
    command: list[str | Path] = ["prlimit", f"--nofile={descriptors}:{descriptors}", program, "--port", str(port)]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    daemon = Daemon(process, control, log_path, port)
    daemons.running.append(daemon)

    def ready() -> bool:
        assert process.poll() is None, daemon.log
        with contextlib.suppress(OSError):  # not bound yet, or not listening
            return bool(daemon.status()["state"] == "ready")
        return False

    wait_for(ready, "the C daemon is ready")
    return daemon


def four_tuple(client: Client) -> tuple[object, ...]:
    return (*client.sock.getpeername()[:2], *client.sock.getsockname()[:2])


def sockets_of(pid: int) -> int:
    """Established TCP connections whose descriptor the process has (`ss -p` would look into every process)."""
    mine, established = set(), set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            mine.add(os.readlink(entry.path))
    for table in ("tcp", "tcp6"):  # a row can come twice, as the table changes between two reads of it
        rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        established |= {f"socket:[{row[9]}]" for row in rows if row[3] == "01"}
    return len(mine & established)


def hand_over(giver: Daemon, taker: Daemon, clients: list[Client], *, answers: bytes) -> None:
    """All connections go from one to the other with their four-tuples, and `answers` is what clients then hear."""
    before = [four_tuple(client) for client in clients]
    said = giver.stream(command="handoff", to=taker.control)
    assert said[-1] == {"ok": True, "event": "done", "moved": len(clients), "remaining": 0}
    assert all(client.ask(b"whoami\n").startswith(answers) for client in clients)
    assert [four_tuple(client) for client in clients] == before
    reported = [tuple(four) for line in said[:-1] for four in line["connections"]]
    assert sorted(map(str, reported)) == sorted(map(str, before))
    assert (giver.status()["connections"], sockets_of(giver.pid)) == (0, 0)
    assert (taker.status()["connections"], sockets_of(taker.pid)) == (len(clients), len(clients))


def test_it_is_as_short_as_promised() -> None:
    lines = SOURCE.read_text().splitlines()
    assert len(lines) < 330
    assert max(map(len, lines)) <= 120


def test_progress_without_names_has_counts_only(daemons: Daemons, program: Path) -> None:
    giver, taker = start_c(daemons, program), daemons.start()
    clients = [giver.connect() for _ in range(3)]
    giver.until(connections=3)
    said = giver.stream(command="handoff", to=taker.control, names=False)
    assert [set(line) for line in said[:-1]] == [{"ok", "event", "moved", "remaining"}] * 3
    assert said[-1] == {"ok": True, "event": "done", "moved": 3, "remaining": 0}
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)


def test_python_to_c_to_python(daemons: Daemons, program: Path) -> None:
    python, c = daemons.start(handler=WHOAMI, name="python"), start_c(daemons, program)
    back = daemons.start(handler=WHOAMI, name="back")
    clients = [python.connect() for _ in range(199)] + [python.connect("::1")]
    assert all(client.ask(b"whoami\n").startswith(b"python ") for client in clients)
    hand_over(python, c, clients, answers=b"whoami\n")  # it is an echo server and nothing else
    hand_over(c, back, clients, answers=f"back pid={back.pid} ".encode())


@pytest.mark.parametrize("from_c", [True, False], ids=["C to Python", "Python to C"])
def test_partial_requests_unsent_replies_and_half_closes_go_along(
    daemons: Daemons, program: Path, from_c: bool
) -> None:
    python, c = daemons.start(), start_c(daemons, program)
    giver, taker = (c, python) if from_c else (python, c)
    partial, unread, piped = giver.connect(), giver.connect(), giver.connect()
    line = b"x" * 60_000 + b"\n"
    partial.send(b"begun, ")
    piped.send(b"one\ntwo")
    assert piped.receive(4) == b"one\n"
    unread.sock.setblocking(False)
    sent = 0
    try:
        while sent < 64 << 20:  # until the daemon no longer reads, since its replies are not read
            sent += unread.sock.send(line[sent % len(line) :])
    except BlockingIOError:
        unread.sock.settimeout(15)
    assert sent > len(line)
    giver.until(connections=3)
    assert giver.stream(command="handoff", to=taker.control)[-1]["moved"] == 3
    giver.process.kill()
    partial.send(b"finished\n")
    assert partial.line() == b"begun, finished\n"
    piped.send(b" halves\n")
    assert piped.line() == b"two halves\n"
    whole = sent // len(line) * len(line)
    assert unread.receive(whole) == line * (whole // len(line))
    taker.until(connections=3)


def test_half_closed_client_gets_its_replies_and_the_end(daemons: Daemons, program: Path) -> None:
    python, c = daemons.start(handler=WHOAMI), start_c(daemons, program)
    with python.connect() as client:
        client.ask(b"whoami\n")
        python.stream(command="handoff", to=c.control)
        client.send(b"a\nb\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.receive(5) == b"a\nb\n"
    c.until(connections=0)


@pytest.mark.parametrize("from_c", [True, False], ids=["C to Python", "Python to C"])
def test_a_listener_it_does_not_hand_over_is_refused_and_goes_on(daemons: Daemons, program: Path, from_c: bool) -> None:
    python, c = daemons.start(), start_c(daemons, program)
    giver, taker = (c, python) if from_c else (python, c)
    old = giver.connect()
    assert old.ask(b"hello\n") == b"hello\n"
    last = giver.stream(command="handoff", to=taker.control, listener=True)[-1]
    assert (last["ok"], bool(last["error"]), bool(last["hint"])) == (False, True, True)
    assert from_c or (last["moved"], last["remaining"]) == (0, 1)
    with giver.connect() as fresh:
        assert fresh.ask(b"hello\n") == b"hello\n"
        assert old.ask(b"still\n") == b"still\n"
        assert giver.status()["state"] == "ready"
        assert (giver.until(connections=2)["connections"], taker.status()["connections"]) == (2, 0)


def test_no_more_are_sent_than_there_is_room_for(daemons: Daemons, program: Path) -> None:
    python, c = daemons.start(), start_c(daemons, program, descriptors=410)
    room = c.status()["max_connections"]
    clients = [python.connect() for _ in range(room + 5)]
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)
    assert python.stream(command="handoff", to=c.control)[-1] == {
        "ok": True, "event": "done", "moved": room, "remaining": 5
    }  # fmt: skip
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)
    waiting = c.connect()  # by the kernel, and in the backlog, as there is no room
    waiting.send(b"late\n")
    assert c.status()["connections"] == room
    for client in clients:
        client.sock.close()
    assert waiting.line() == b"late\n"


def test_a_killed_receiver_costs_only_what_it_had_acknowledged(daemons: Daemons, program: Path) -> None:
    python, c = daemons.start(), start_c(daemons, program)
    clients = [c.connect() for _ in range(200)]
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)
    python.process.send_signal(signal.SIGSTOP)  # it has answered nothing yet, and never will
    with socket.socket(socket.AF_UNIX) as operator:
        operator.connect(c.control)
        operator.sendall(json.dumps({"command": "handoff", "to": python.control}).encode() + b"\n")
        assert all(client.ask(b"meanwhile\n") == b"meanwhile\n" for client in clients)
        python.process.kill()
        last = json.loads(operator.makefile().readline())
    assert (last["ok"], last["moved"], last["remaining"]) == (False, 0, 200)
    assert all(client.ask(b"still\n") == b"still\n" for client in clients)


def test_a_receiver_that_never_acknowledges_gets_nothing(daemons: Daemons, program: Path) -> None:
    c = start_c(daemons, program)
    clients = [c.connect() for _ in range(3)]
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)
    with FakeReceiver(daemons.directory / "fake.sock") as fake:
        handing = HandingOff(c, fake.path)
        fake.answer(b'{"ok": true, "version": 1, "room": 100}')
        assert c.ask(command="handoff", to=fake.path)["code"] == "busy"  # it has begun, and waits for five seconds
        last = handing.end()[-1]
        assert (last["ok"], last["moved"], last["remaining"]) == (False, 0, 3)
        assert all(client.ask(b"still\n") == b"still\n" for client in clients)
        with pytest.raises(BrokenPipeError):
            fake.acknowledge()
        fake.close()


def test_what_must_not_be_received_is_refused_or_made_not_to_block(daemons: Daemons, program: Path) -> None:
    c = start_c(daemons, program)
    receive = b'{"command": "receive", "versions": [1], "framing": "line", "stateful": false}\n'
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(socket.create_connection(listener.getsockname(), timeout=10))
        theirs, _ = listener.accept()
        for descriptors, answer in ([theirs.fileno(), listener.fileno()], 17), ([theirs.fileno()], 16):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(c.control)
                sock.sendall(receive)
                sock.recv(4096)
                size = 16 * len(descriptors)
                header = bytes([2, 0, 0, len(descriptors), 0, 0, 0, 1, 0, 0, 0, size])
                socket.send_fds(sock, [header + bytes(size)], descriptors)
                assert sock.recv(4096)[0] == answer
    with theirs, client:
        client.send(b"par")
        assert c.until(connections=1)["state"] == "ready"  # it is not in a read
        assert client.ask(b"t\n") == b"part\n"


def test_a_receiver_that_ends_keeps_what_it_has_acknowledged_and_no_more(daemons: Daemons, program: Path) -> None:
    c = start_c(daemons, program)
    clients = [c.connect() for _ in range(3)]
    assert all(client.ask(b"x\n") == b"x\n" for client in clients)
    path = str(daemons.directory / "receiver.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as operator:
        listener.bind(path)
        listener.listen()
        operator.settimeout(15)
        operator.connect(c.control)
        operator.sendall(json.dumps({"command": "handoff", "to": path}).encode() + b"\n")
        peer = listener.accept()[0]
        with peer:
            peer.settimeout(15)
            assert json.loads(peer.recv(4096))["command"] == "receive"
            peer.sendall(b'{"ok": true, "version": 1, "room": 100}\n')
            data, (taken,), _, _ = socket.recv_fds(peer, 4096, 8)
            assert data == struct.pack(">BBHII IIII", 2, 0, 1, 1, 16, 0, 0, 0, 0)
            peer.sendall(struct.pack(">BBHII", 16, 0, 1, 1, 0))
            data, (lost,), _, _ = socket.recv_fds(peer, 4096, 8)
            assert data[:12] == struct.pack(">BBHII", 2, 0, 1, 2, 16)
            os.close(lost)
        answers = map(json.loads, operator.makefile())
        last = next(answer for answer in answers if not answer["ok"])
    with socket.socket(fileno=taken) as mine:
        (owned,) = [client for client in clients if client.sock.getsockname()[1] == mine.getpeername()[1]]
        owned.send(b"to the test\n")
        assert mine.recv(100) == b"to the test\n"
        assert (last["ok"], last["moved"], last["remaining"]) == (False, 1, 2)
        assert all(client.ask(b"still\n") == b"still\n" for client in clients if client is not owned)
        assert c.status()["connections"] == 2


def record(partial: int, unsent: int, state: int) -> bytes:
    """The header of a record."""
    return struct.pack(">IIII", 0, partial, unsent, state)


@pytest.mark.parametrize(
    ("kind", "count", "body"),
    [(2, 1, record(1, 0, 0)), (2, 1, record(0, 0, 0) + b"x"), (2, 1, record(0, 0, 0)[:15]), (2, 1, b""),
     (2, 2, record(0, 0, 0)), (2, 2, record(0, 0, 0) * 2), (2, 0, b""), (1, 1, b""), (3, 1, b""), (9, 1, b""),
     (2, 1, record(2**32 - 1, 2**32 - 1, 2**32 - 1))],
)  # fmt: skip
def test_nonsense_is_refused_and_its_descriptor_closed(
    daemons: Daemons, program: Path, kind: int, count: int, body: bytes
) -> None:
    c = start_c(daemons, program)
    ours, theirs = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as sender, ours:
        sender.settimeout(15)
        sender.connect(c.control)
        sender.sendall(b'{"command": "receive", "versions": [1], "framing": "line", "stateful": false, "new": "x"}\n')
        assert json.loads(sender.recv(4096))["ok"]
        with theirs:
            socket.send_fds(sender, [struct.pack(">BBHII", kind, 0, count, 1, len(body)) + body], [theirs.fileno()])
        answer = b"".join(iter(lambda: sender.recv(4096), b""))
        assert answer[0] == 17 and int.from_bytes(answer[8:12]) == len(answer) - 12
        ours.settimeout(15)
        assert ours.recv(1) == b""  # nobody has the other end any more
    assert c.status()["connections"] == 0


def test_a_message_of_as_many_connections_as_the_kernel_lets_through(daemons: Daemons, program: Path) -> None:
    c = start_c(daemons, program)
    with socket.create_server(("127.0.0.1", 0), backlog=253) as listener:
        pairs = [(socket.create_connection(listener.getsockname()), listener.accept()[0]) for _ in range(253)]
    with socket.socket(socket.AF_UNIX) as sender, contextlib.ExitStack() as held:
        sender.settimeout(15)
        sender.connect(c.control)
        sender.sendall(b'{"stateful":false,"framing":"line","versions":[ 3,1 ],"new":null,"command":"receive"}\n')
        assert json.loads(sender.recv(4096))["room"] >= 253
        body = b"".join(record(3, 4, 0) + b"par" + b"old\n" for _ in pairs)
        for ours, theirs in pairs:
            theirs.setblocking(False)
            held.enter_context(ours)
        message = struct.pack(">BBHII", 2, 0, 253, 1, len(body)) + body
        assert socket.send_fds(sender, [message], [theirs.fileno() for _, theirs in pairs]) == len(message)
        assert sender.recv(4096) == struct.pack(">BBHII", 16, 0, 253, 1, 0)
        sender.sendall(struct.pack(">BBHII", 3, 0, 0, 2, 0))
        assert sender.recv(4096) == struct.pack(">BBHII", 16, 0, 0, 2, 0)
        assert sender.recv(4096) == b""
        for ours, theirs in pairs:
            theirs.close()
            ours.settimeout(15)
            ours.sendall(b"tial\n")
            with ours.makefile("rb") as answers:
                assert [answers.readline(), answers.readline()] == [b"old\n", b"partial\n"]
        assert c.status()["connections"] == 253
    c.until(connections=0)


def test_drain_evicts_and_resume_ends_it(daemons: Daemons, program: Path) -> None:
    c = start_c(daemons, program)
    idle, begun = [c.connect() for _ in range(20)], c.connect()
    assert all(client.ask(b"x\n") == b"x\n" for client in [*idle, begun])
    begun.send(b"not ye")
    assert c.ask(command="drain", rate=1000, listener="close")["state"] == "draining"
    c.until(connections=1)
    assert all(client.closed() for client in idle)
    begun.send(b"t\n")
    assert begun.line() == b"not yet\n"
    assert c.ask(command="resume")["state"] == "ready"
    with c.connect() as fresh:
        assert fresh.ask(b"again\n") == b"again\n"


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b'{"command": 1}', b'{"command": "status", "x": 1}', b'{"command": "drain", "rate": "fast"}',
     b'{"command": "nonsense"}', b"\x00\xff", b'{"command": "handoff"}', b'{"command": "drain", "rate": -1}',
     b'{"command": "receive", "versions": [2], "framing": "line"}',
     b'{"command": "receive", "versions": [1], "framing": "resp"}'],
)  # fmt: skip
def test_malformed_commands_get_an_error_and_nothing_else(daemons: Daemons, program: Path, line: bytes) -> None:
    c = start_c(daemons, program)
    with socket.socket(socket.AF_UNIX) as operator:
        operator.connect(c.control)
        operator.settimeout(15)
        operator.sendall(line + b"\n" + b'{"command": "status"}\n')
        answers = operator.makefile()
        refused, status = json.loads(answers.readline()), json.loads(answers.readline())
    assert refused["ok"] is False and refused["code"] == "refused" and refused["error"] and refused["hint"]
    assert status["ok"] and status["state"] == "ready"


def test_exit_codes(daemons: Daemons, program: Path) -> None:
    c = start_c(daemons, program)

    def code(*flags: str, control: str) -> int:
        environment = {"PORTFLEET_CONTROL": control}
        return subprocess.run([program, *flags], env=environment, capture_output=True, check=False).returncode

    other = str(daemons.directory / "other.sock")
    assert code("--port", str(c.port), control=other) == 3
    assert code("--port", str(free_port()), control=c.control) == 3  # somebody listens on it
    assert code("--port", "0", control=other) == code(control=other) == 2
    client = c.connect()
    assert client.ask(b"x\n") == b"x\n"
    c.process.send_signal(signal.SIGTERM)
    assert c.process.wait(15) == 0
    assert client.closed()
    assert not Path(c.control).exists()


def test_a_socket_file_left_behind_is_taken_over(daemons: Daemons, program: Path) -> None:
    first = start_c(daemons, program)
    first.process.kill()
    first.process.wait()
    assert Path(first.control).is_socket()
    assert start_c(daemons, program).status()["state"] == "ready"
    assert Path(first.control).stat().st_mode & 0o777 == 0o600
