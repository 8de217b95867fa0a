"""The control socket: its answers, and what it does with nonsense."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet_daemon.commands import KEYS, Drain, Evict, parse
from portfleet_daemon.control import ControlSocket
from portfleet_daemon.errors import Refused
from portfleet_daemon.stats import BOUNDS
from support.daemons import Daemon, Daemons
from support.sandbox import wait_for


def raw(daemon: Daemon, data: bytes) -> list[dict[str, object]]:
    """All answers to raw bytes, the connection shut down behind them."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(daemon.control)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return [json.loads(line) for line in sock.makefile("rb")]


def test_status_says_everything(daemons: Daemons) -> None:
    daemon = daemons.start(name="echo-blue-1")
    with daemon.connect() as client:
        for _ in range(10):
            client.ask(b"12345\n")
        status = daemon.until(requests=10)
    assert status["ok"] is True
    assert status["state"] == "ready"
    assert (status["instance"], status["pid"], status["port"]) == ("echo-blue-1", daemon.pid, daemon.port)
    assert (status["connections"], status["accepted"]) == (1, 1)
    assert (status["bytes_in"], status["bytes_out"], status["errors"]) == (60, 60, 0)
    assert len(status["latency"]["counts"]) == len(status["latency"]["bounds_us"]) + 1 == len(BOUNDS) + 1
    assert sum(status["latency"]["counts"]) == 10
    assert status["max_loop_lag_us"] > 0
    assert status["max_connections"] > 0
    assert status["handoff"] == [1, 2]
    assert isinstance(status["version"], str)


def test_state_says_what_a_probe_needs(daemons: Daemons) -> None:
    daemon = daemons.start("--max-connections", "9")
    with daemon.connect():
        daemon.until(connections=1)
        (state,) = daemon.stream(command="state")
    assert state == {"ok": True, "state": "ready", "connections": 1, "max_connections": 9}


@pytest.mark.parametrize("command", ["state", "status"])
def test_an_answer_is_repeated_until_the_connection_ends(daemons: Daemons, command: str) -> None:
    daemon = daemons.start()
    with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as answers:
        sock.settimeout(10)
        sock.connect(daemon.control)
        began = time.monotonic()
        sock.sendall(json.dumps({"command": command, "every": 0.05}).encode() + b"\n" + b'{"command": "drain"}\n')
        assert json.loads(next(answers))["connections"] == 0
        with daemon.connect():
            said = [json.loads(next(answers)) for _ in range(4)]
        assert time.monotonic() - began >= 4 * 0.05
        assert all(one["state"] == "ready" for one in said), "the line after it is not read"
        assert any(one["connections"] for one in said) or command == "status"
    daemon.until(connections=0)
    assert daemon.ask(command="state")["ok"]


@pytest.mark.parametrize("every", [0, -1, 61, 0.001, "1", True, [1]])
def test_what_is_no_time_to_repeat_in_is_refused(daemons: Daemons, every: object) -> None:
    (refused,) = daemons.start().stream(command="state", every=every)
    assert refused["ok"] is False and "every" in str(refused["error"]), refused


def test_latency_of_awaited_replies_is_counted_whole(daemons: Daemons) -> None:
    daemon = daemons.start(handler="sample:slow")
    with daemon.connect() as client:
        client.ask(b"wait0.2\n")
        status = daemon.until(requests=1)
    (bucket,) = (index for index, count in enumerate(status["latency"]["counts"]) if count)
    assert 200_000 <= status["latency"]["bounds_us"][bucket] < 600_000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"nonsense", "not JSON"),
        (b"[]", "no command"),
        (b'{"command": 1}', "no command"),
        (b'{"command": "dance"}', "unknown command 'dance'"),
        (b'{"command": "drain", "speed": 1}', "drain has no 'speed'"),
        (b'{"command": "drain", "rate": -1}', "rate is -1"),
        (b'{"command": "drain", "rate": NaN}', "rate is nan"),
        (b'{"command": "drain", "rate": 1%b}' % (b"0" * 400), "rate is 1000"),
        (b'{"command": "drain", "rate": true}', "rate is True"),
        (b'{"command": "drain", "listener": "open"}', "listener is 'open'"),
        (b'{"command": "evict"}', "evict needs rate"),
        (b'{"command": "evict", "rate": 5, "count": 1.5}', "count is 1.5"),
        (b'{"command": "handoff"}', "handoff needs to"),
        (b'{"command": "receive", "versions": "1"}', "versions, framing and stateful"),
        (b"[" * 60_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_malformed_input_gets_an_error_and_nothing_else(daemons: Daemons, line: bytes, said: str) -> None:
    daemon = daemons.start()
    refused, status = raw(daemon, line + b'\n{"command": "status"}\n')
    assert refused["ok"] is False and said in str(refused["error"]) and refused["hint"]
    assert refused["code"] == "refused" and status["state"] == "ready"


def test_a_line_without_end_is_cut_off(daemons: Daemons) -> None:
    daemon = daemons.start()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(daemon.control)
        sock.sendall(b"x" * 70_000)
        assert json.loads(sock.makefile("rb").readline())["error"] == "line over 65536 bytes"
    assert daemon.status()["ok"]


def test_too_many_control_clients_are_told(daemons: Daemons) -> None:
    daemon = daemons.start()
    socks = []
    try:
        for _ in range(70):
            sock = socket.socket(socket.AF_UNIX)
            socks.append(sock)
            sock.connect(daemon.control)  # with a time-out set, a full backlog would be an error
            sock.settimeout(10)
        assert json.loads(socks[-1].makefile("rb").readline())["error"] == "over 64 control connections"
    finally:
        for sock in socks:
            sock.close()
    daemon.until(state="ready")


def test_random_lines_do_no_harm(daemons: Daemons) -> None:
    daemon = daemons.start()
    values = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.sampled_from([10**400, -(10**400)])
        | st.floats()
        | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
    keys = sorted({key for keys in KEYS.values() for key in keys} | {"versions", "framing", "stateful"})
    commands = st.fixed_dictionaries(
        {"command": st.sampled_from([*KEYS, "receive", "x"])}, optional=dict.fromkeys(keys, values)
    )
    before = daemon.rss()

    @given(
        st.lists(st.binary(max_size=60) | commands.map(lambda one: json.dumps(one).encode()), min_size=1, max_size=5)
    )
    def fuzz(lines: list[bytes]) -> None:
        for answer in raw(daemon, b"\n".join(lines) + b"\n"):
            assert isinstance(answer["ok"], bool)

    fuzz()
    assert daemon.process.poll() is None and daemon.status()["ok"]
    assert "Traceback" not in daemon.log
    assert daemon.rss() - before < 3_000_000


def test_commands_are_values() -> None:
    assert parse(b'{"command": "drain", "rate": 5}') == Drain(rate=5.0, deadline=None, close_listener=False)
    assert parse(b'{"command": "evict", "rate": 0.5, "count": 7}') == Evict(rate=0.5, count=7)
    with pytest.raises(Refused):
        parse(b'{"command": "evict", "rate": 1e9}')


def test_a_socket_that_was_removed_is_made_anew(daemons: Daemons) -> None:
    daemon = daemons.start(name="echo-blue-1")
    Path(daemon.control).unlink()
    wait_for("it is there again", lambda: Path(daemon.control).is_socket())
    assert raw(daemon, b'{"command": "state"}\n')[0]["state"] == "ready"


def test_a_connection_that_comes_while_it_is_closed_leaves_no_error(tmp_path: Path) -> None:
    async def close_under_a_connection() -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))

        async def nothing(*_: object) -> Any:
            raise AssertionError("nothing was asked")
            yield

        control = ControlSocket(str(tmp_path / "c"), run=nothing, take=nothing)
        control.open()
        await asyncio.sleep(0)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(control.path)
            await loop.create_task(control.close())  # it begins in the round in which the connection is seen
        return told

    assert asyncio.run(close_under_a_connection()) == []
