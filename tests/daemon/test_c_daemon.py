"""The C daemon of examples/c-daemon, built by cc: it and the Python daemon hand live connections to each other."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemons import Client, Daemon, Daemons, daemons_in, wait_for

SOURCE = Path(__file__).parents[2] / "examples" / "c-daemon"
WHOAMI = "portfleet_daemon.handlers:whoami"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The daemon, built without a warning."""
    assert shutil.which("cc"), "no C compiler: script/setup --tests"
    target = tmp_path_factory.mktemp("c") / "c-daemon"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", target, *sorted(SOURCE.glob("*.c"))], check=True)
    return target


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    with daemons_in(tmp_path) as started:
        yield started


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])


def start_c(daemons: Daemons, program: Path, name: str = "c") -> Daemon:
    control, log_path, port = str(daemons.directory / f"{name}.sock"), daemons.directory / f"{name}.log", free_port()
    environment = {**os.environ, "PORTFLEET_CONTROL": control, "PORTFLEET_INSTANCE": name, "PORTFLEET_RELEASE": "v9"}
    with log_path.open("wb") as log:
        process = subprocess.Popen([program, "--port", str(port)], env=environment, stdout=log, stderr=log)
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
    mine = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            mine.add(os.readlink(entry.path))
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return sum(row[3] == "01" and f"socket:[{row[9]}]" in mine for row in rows)


def listens(port: int) -> bool:
    """Whether any process listens on the port."""
    listing = subprocess.run(["ss", "-Htln", f"sport = :{port}"], capture_output=True, text=True, check=True)
    return bool(listing.stdout.strip())


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


def test_python_to_c_to_python(daemons: Daemons, program: Path) -> None:
    python, c = daemons.start(handler=WHOAMI, name="python"), start_c(daemons, program)
    back = daemons.start(handler=WHOAMI, name="back")
    clients = [python.connect() for _ in range(199)] + [python.connect("::1")]
    assert all(client.ask(b"whoami\n").startswith(b"python ") for client in clients)
    hand_over(python, c, clients, answers=f"c pid={c.pid} release=v9".encode())
    assert all(client.ask(b"echo\n") == b"echo\n" for client in clients)
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
def test_the_listener_goes_along(daemons: Daemons, program: Path, from_c: bool) -> None:
    python, c = daemons.start(), start_c(daemons, program)
    giver, taker = (c, python) if from_c else (python, c)
    giver.process.send_signal(signal.SIGSTOP)
    waiting = [giver.connect() for _ in range(20)]  # in the backlog: nobody has accepted them
    with socket.socket(socket.AF_UNIX) as operator:
        operator.connect(giver.control)
        operator.sendall(json.dumps({"command": "handoff", "to": taker.control, "listener": True}).encode() + b"\n")
        giver.process.send_signal(signal.SIGCONT)
        lines = operator.makefile()
        last = next(answer for answer in map(json.loads, lines) if answer.get("event") != "progress")
    assert last["ok"], last
    assert all(client.ask(b"hello\n") == b"hello\n" for client in waiting)
    wait_for(lambda: giver.status()["connections"] + taker.status()["connections"] == 20, "all are counted once")
    assert giver.status()["state"] == "draining"
    # the port is taken while the taker listens on it, which it does until nobody has come for a while
    if from_c:
        wait_for(lambda: giver.ask(command="resume")["ok"], "the port is free again")
    else:
        wait_for(lambda: not listens(giver.port), "the taker has closed the port")
        assert giver.ask(command="resume")["ok"]
    with giver.connect() as fresh:
        assert fresh.ask(b"again\n") == b"again\n"


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


def test_drain_evicts_and_resume_ends_it(daemons: Daemons, program: Path) -> None:
    c = start_c(daemons, program)
    idle, begun = [c.connect() for _ in range(20)], c.connect()
    assert all(client.ask(b"x\n") == b"x\n" for client in [*idle, begun])
    begun.send(b"not ye")
    wait_for(lambda: c.status()["bytes_in"] == 21 * 2 + 6, "the part of a request was read")
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
    assert refused["ok"] is False and refused["error"] and refused["hint"]
    assert status["ok"] and status["state"] == "ready"


def test_exit_codes(daemons: Daemons, program: Path) -> None:
    c = start_c(daemons, program)
    assert subprocess.run([program, "--port", str(c.port)], capture_output=True, check=False).returncode == 3
    assert subprocess.run([program], capture_output=True, check=False).returncode == 2
    c.process.send_signal(signal.SIGTERM)
    assert c.process.wait(15) == 0
    assert not Path(c.control).exists()
