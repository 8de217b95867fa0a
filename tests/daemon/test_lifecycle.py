"""Starting, draining, stopping: signals, exit codes, the port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from portfleet_daemon.lifecycle import TRANSITIONS, Lifecycle, State
from portfleet_daemon.quiesce_listener import quiesce, unquiesce
from portfleet_daemon.sockdiag import accept_queue, handshakes
from support.daemons import Client, Daemons, wait_for


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "portfleet_daemon", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=cwd, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "0", "--handler", "nosuch:thing"], "No module named 'nosuch'"),
        (["--port", "0", "--handler", "portfleet_daemon.handlers:nosuch"], "has no nosuch"),
        (["--port", "0", "--handler", "plain"], "not module:attr"),
        (["--port", "0", "--handler", "broken:respond"], "SyntaxError"),
        (["--port", "0", "--handler", "os:sep"], "a function or a class is needed"),
        (["--port", "0", "--handler", "portfleet_daemon.handlers:echo", "--framing", "morse"], "'morse' is unknown"),
        (["--port", "0", "--handler", "portfleet_daemon.handlers:echo", "--framing", "incomplete:Half"], "abstract"),
        (["--port", "0", "--handler", "portfleet_daemon.handlers:echo", "--control", "/" + "x" * 120], "at most 107"),
        (["--port", "70000", "--handler", "portfleet_daemon.handlers:echo"], "no port of 0 to 65535"),
        (["--port", "0", "--handler", "portfleet_daemon.handlers:echo", "--request-timeout", "5"], "no duration"),
        (["--port", "0", "--handler", "portfleet_daemon.handlers:echo", "--drain-rate", "nan"], "per second"),
        (["--handler", "portfleet_daemon.handlers:echo"], "required: --port"),
    ],
)
def test_an_operators_mistake_is_exit_2_without_a_traceback(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "broken.py").write_text("def respond(:\n")
    half = "class Half(Framing):\n    def split(self, buffer, memo):\n        return None, 0, None\n"
    (tmp_path / "incomplete.py").write_text("from portfleet_daemon.framing import Framing\n" + half)
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_environment_says_how_many_connections_and_the_flag_says_it_better(
    monkeypatch: pytest.MonkeyPatch, daemons: Daemons, tmp_path: Path
) -> None:
    monkeypatch.setenv("PORTFLEET_MAX_CONNECTIONS", "7")
    assert daemons.start().status()["max_connections"] == 7
    assert daemons.start("--max-connections", "9").status()["max_connections"] == 9
    for wrong in ("many", "0", "-3", "99999999"):
        monkeypatch.setenv("PORTFLEET_MAX_CONNECTIONS", wrong)
        done = run("--port", "0", "--handler", "portfleet_daemon.handlers:echo", cwd=tmp_path)
        assert done.returncode == 2 and f"PORTFLEET_MAX_CONNECTIONS: '{wrong}' is no number" in done.stderr
        assert "hint: " in done.stderr and "Traceback" not in done.stderr


def test_a_taken_port_is_exit_3_and_names_it(daemons: Daemons) -> None:
    daemon = daemons.start()
    done = run("--port", str(daemon.port), "--handler", "portfleet_daemon.handlers:echo")
    assert done.returncode == 3
    assert f"port {daemon.port} is taken" in done.stderr and "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_control_socket_in_use_is_exit_3_and_a_stale_one_is_replaced(daemons: Daemons) -> None:
    daemon = daemons.start(name="same")
    done = run("--port", "0", "--handler", "portfleet_daemon.handlers:echo", "--control", daemon.control)
    assert done.returncode == 3 and "a daemon listens on it" in done.stderr
    daemon.process.kill()
    daemon.process.wait()
    assert Path(daemon.control).exists()
    again = daemons.start(name="same")
    assert Path(again.control).stat().st_mode & 0o777 == 0o600
    again.process.terminate()
    assert again.process.wait(10) == 0
    assert not Path(again.control).exists()


@pytest.mark.timed
def test_sigterm_closes_at_request_boundaries_at_the_rate(daemons: Daemons) -> None:
    daemon = daemons.start("--drain-rate", "100", handler="sample:slow")
    clients = [daemon.connect() for _ in range(60)]
    waiting = clients[0]
    waiting.send(b"wait1\n")
    daemon.until(connections=60)
    wait_for(lambda: daemon.status()["bytes_in"], "the request")
    began = time.monotonic()
    daemon.process.terminate()
    assert waiting.line() == b"wait1\n"  # begun, so finished
    assert daemon.process.wait(15) == 0
    took = time.monotonic() - began
    assert 0.9 < took < 3, took
    assert all(client.closed() for client in clients)


@pytest.mark.timed
def test_sigterm_lets_connections_finish_until_the_deadline(daemons: Daemons) -> None:
    daemon = daemons.start("--drain-deadline", "1500ms")
    with daemon.connect() as client:
        assert client.ask(b"a\n") == b"a\n"
        began = time.monotonic()
        daemon.process.terminate()
        wait_for(lambda: daemon.status()["state"] == "draining", "draining")
        assert client.ask(b"b\n") == b"b\n"
        assert client.closed()
        assert daemon.process.wait(10) == 0
        assert 1.4 < time.monotonic() - began < 3


def test_sigterm_without_connections_ends_soon(daemons: Daemons) -> None:
    daemon = daemons.start()
    daemon.process.terminate()
    assert daemon.process.wait(2) == 0


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_sigint_or_a_second_sigterm_ends_at_once(daemons: Daemons, signals: list[signal.Signals]) -> None:
    daemon = daemons.start()
    with daemon.connect() as client:
        assert client.ask(b"a\n") == b"a\n"
        for number in signals:
            os.kill(daemon.pid, number)
            if number is not signals[-1] or len(signals) > 1:
                wait_for(lambda: "to=draining" in daemon.log, "draining")
        assert daemon.process.wait(2) == 0


def test_no_connection_is_reset_when_the_port_closes_under_connects(daemons: Daemons) -> None:
    """A client that is connected is answered, however late before the listener's end it came."""
    daemon = daemons.start("--drain-deadline", "10s")
    results = {"answered": 0, "refused": 0, "reset": 0}

    def connect_until_refused() -> None:
        while not results["refused"]:
            try:
                sock = socket.create_connection(("127.0.0.1", daemon.port), timeout=5)
            except ConnectionRefusedError:
                results["refused"] += 1
                return
            with Client(sock) as client:
                try:
                    results["answered" if client.ask(b"x\n") == b"x\n" else "reset"] += 1
                except ConnectionError:
                    results["reset"] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=connect_until_refused)
    thread.start()
    wait_for(lambda: results["answered"] > 50, "connects")
    daemon.process.terminate()
    thread.join(10)
    assert results["refused"] == 1 and results["reset"] == 0 and results["answered"] > 50
    assert daemon.process.wait(10) == 0


def test_drain_and_resume_by_the_control_socket(daemons: Daemons) -> None:
    daemon = daemons.start()
    clients = [daemon.connect() for _ in range(30)]
    daemon.until(connections=30)
    assert daemon.ask(command="drain", listener="close")["state"] == "draining"

    def refused() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", daemon.port)).close()
            return False
        return True

    wait_for(refused, "the port is closed")
    assert daemon.status()["connections"] == 30  # let finish
    assert daemon.ask(command="drain", rate=1000)["ok"]
    daemon.until(connections=0, state="draining")
    assert all(client.closed() for client in clients)
    assert daemon.process.poll() is None
    assert daemon.ask(command="resume")["state"] == "ready"
    with daemon.connect() as client:
        assert client.ask(b"x\n") == b"x\n"


def test_a_drains_deadline_closes_the_rest_and_the_daemon_stays(daemons: Daemons) -> None:
    daemon = daemons.start()
    with daemon.connect() as client:
        client.send(b"never")
        daemon.until(connections=1)
        daemon.ask(command="drain", rate=100, deadline=0.5)
        assert client.closed()
    daemon.until(state="draining", connections=0)


@pytest.mark.timed
def test_evict_closes_a_number_at_a_rate(daemons: Daemons) -> None:
    daemon = daemons.start()
    clients = [daemon.connect() for _ in range(100)]
    daemon.until(connections=100)
    began = time.monotonic()
    assert daemon.ask(command="evict", rate=100, count=50)["state"] == "ready"
    daemon.until(connections=50)
    assert 0.3 < time.monotonic() - began < 1.5
    wait_for(lambda: "evicted connections=50 remaining=50" in daemon.log, "the end of the eviction")
    assert len(clients) == 100 and daemon.status()["connections"] == 50


def test_systemd_is_told(daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon = daemons.start()
        assert notify.recv(100).startswith(b"READY=1")
        daemon.process.terminate()
        assert notify.recv(100) == b"STATUS=draining"
        assert notify.recv(100).startswith(b"STOPPING=1")


def test_every_state_can_end_and_only_listed_ways_exist() -> None:
    assert set(TRANSITIONS) == set(State)
    for state in set(State) - {State.STOPPED}:
        assert State.STOPPED in TRANSITIONS[state]
    told: list[str] = []
    lifecycle = Lifecycle(told.append)
    with pytest.raises(ValueError, match="no way from starting to draining"):
        lifecycle.enter(State.DRAINING)
    assert lifecycle.enter(State.READY) and not lifecycle.enter(State.READY)
    assert len(told) == 1


def test_the_kernel_says_what_waits_for_accept() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as listener, socket.socket(family) as client, socket.socket(family) as early:
            listener.bind((address, 0))
            listener.listen(5)
            port = listener.getsockname()[1]
            assert (accept_queue(listener), handshakes(port)) == (0, 0)
            client.connect((address, port))
            wait_for(partial(accept_queue, listener), "a connection in the accept queue")
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
            early.connect((address, port))  # stays in SYN_RECV on our side until it sends data
            assert handshakes(port) == 1


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_quiesced_listener_finishes_handshakes_and_begins_none(family: socket.AddressFamily, address: str) -> None:
    with (
        socket.create_server((address, 0), family=family) as listener,
        socket.socket(family) as early,
        socket.socket(family) as late,
    ):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        early.connect(listener.getsockname())  # in SYN_RECV on the listener's side
        quiesce(listener)
        late.settimeout(0.3)
        with pytest.raises(TimeoutError):
            late.connect(listener.getsockname())
        early.sendall(b"x")
        wait_for(partial(accept_queue, listener), "the early one to be established")
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(5)
            early.sendall(b"y")
            unquiesce(accepted)
            assert accepted.recv(1, socket.MSG_WAITALL) + accepted.recv(1) == b"xy"
        unquiesce(listener)
        late.settimeout(5)
        with contextlib.suppress(BlockingIOError):
            late.connect(listener.getsockname())
        late.sendall(b"z")
        wait_for(partial(accept_queue, listener), "the late one, whose SYN is sent again")
