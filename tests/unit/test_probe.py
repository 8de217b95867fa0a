"""Each kind of probe as bytes in and verdict out, and which of them an instance is asked."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from portfleet.core.policies import Probe
from portfleet.daemons.exchange import Control, Exchange, Port
from portfleet.daemons.probe import AskReady, Connect, Empty, Expect, Target, exchanges, target_of
from portfleet.daemons.talk import Talk
from support.fleets import ECHO, PATHS, desired

PLACE = Port("127.0.0.1", 7101)
READY = b'{"state" : "ready", "ok": true, "connections": 3, "max_connections": 9}\n'


def verdict(exchange: Exchange, *parts: bytes) -> str | None:
    """Connect, send, then receive ``parts``; return how the exchange stands."""
    for event in (exchange.connected, exchange.sent):
        if (found := event()) is not None:
            return found
    for part in parts:
        if (found := exchange.received(part)) is not None:
            return found
    return None


def ready() -> AskReady:
    return AskReady(Control("/run/a.sock", 1))


def expect() -> Expect:
    return Expect(PLACE, b"PING\n", b"PONG")


@pytest.mark.parametrize(
    ("make", "parts", "found"),
    [
        (lambda: Connect(PLACE), [], ""),
        (lambda: Empty(PLACE), [], None),
        (lambda: Empty(PLACE), [b"hello"], None),
        (lambda: Empty(PLACE), [b"hello", b""], ""),
        (lambda: Expect(PLACE, b"PING\n", b""), [], ""),
        (expect, [], None),
        (expect, [b"+PON"], None),
        (expect, [b"+PON", b"G\n"], ""),
        (expect, [b"-no\x1b[2J", b""], r"port 7101: closed after b'-no\x1b[2J', expected b'PONG'"),
        (ready, [READY], ""),
        (ready, [READY[:-1]], None),
        (ready, [READY[:9], b""], "control socket: closed without an answer"),
        (ready, [READY.replace(b"ready", b"draining")], "it says it is draining"),
        (ready, [READY + b"x"], "it says more than it was asked"),
        (ready, [b"PONG\n"], r"it does not answer properly: b'PONG' is no JSON object"),
    ],
)
def test_a_kind(make: Callable[[], Exchange], parts: Sequence[bytes], found: str | None) -> None:
    assert verdict(make(), *parts) == found
    if found is None or parts:
        bytewise = [bytes([byte]) for part in parts for byte in part] + [b""] * (parts[-1:] == [b""])
        assert verdict(make(), *bytewise) in (found, ""), "however the bytes arrive"


def test_a_kind_says_what_else_can_happen_to_it() -> None:
    assert Connect(PLACE).unreachable(errno.ECONNREFUSED) == "port 7101: Connection refused (ECONNREFUSED)"
    assert expect().late(0.5) == "port 7101: no answer within 500 ms"
    assert "ECONNREFUSED" in str(AskReady(Control("/run/a.sock", 1), spoke=True).unreachable(errno.ECONNREFUSED))
    assert AskReady(Control("/run/a.sock", 1), spoke=True).unreachable(errno.ENOENT) == "", "its file was removed"


def asked(target: Target, pid: int | None, answer: bytes | int = READY, *, port: bool = True) -> list[type[Exchange]]:
    """Return the kinds of what an instance is asked, which answers its control socket with bytes, or an errno."""
    found = []
    for exchange in exchanges(target, pid, port=port):
        found.append(type(exchange))
        if isinstance(exchange, AskReady) and isinstance(answer, bytes):
            assert exchange.received(answer) == ""
        elif isinstance(exchange, AskReady) and isinstance(answer, int) and exchange.unreachable(answer):
            return found
    return found


def test_what_an_instance_is_asked() -> None:
    unasked, speaking = (Target("a", PLACE, control, Probe()) for control in (None, "/run/a.sock"))
    assert asked(unasked, 7) == [Connect]
    for code in (errno.ENOENT, errno.ECONNREFUSED):
        assert asked(speaking, 7, code) == [AskReady, Connect], "a daemon without a control socket"
    for code in (errno.EAGAIN, errno.ELOOP, errno.EACCES):
        assert asked(speaking, 7, code) == [AskReady], "it has one, and does not answer"
    assert asked(speaking, 7) == [AskReady, Empty]
    assert asked(speaking, None) == [Connect], "whose socket it is cannot be made sure of yet"
    assert asked(speaking, 7, READY.replace(b": 3", b": 9")) == [AskReady], "it is full: its word alone counts"
    sending = Target("a", PLACE, "/run/a.sock", Probe(send="PING\n", expect="PONG"))
    assert asked(sending, 7) == [AskReady, Expect]


def test_the_port_can_be_left_out_for_a_daemon_that_answers_on_its_control_socket() -> None:
    speaking, sending = (Target("a", PLACE, "/run/a.sock", probe) for probe in (Probe(), Probe(send="a", expect="b")))
    assert asked(speaking, 7, port=False) == [AskReady]
    assert asked(sending, 7, port=False) == [AskReady, Expect], "the config says what to ask there"
    assert asked(speaking, 7, errno.ECONNREFUSED, port=False) == [AskReady, Connect], "nothing else was asked"


def test_the_brief_command_comes_first_and_who_does_not_know_it_is_asked_for_the_status() -> None:
    steps = exchanges(Target("a", PLACE, "/run/a.sock", Probe()), 7, commands=("state", "status"))
    first = next(steps)
    assert isinstance(first, AskReady) and first.request == b'{"command": "state"}\n'
    assert first.received(b'{"ok": false, "error": "unknown command"}\n') == ""
    second = next(steps)
    assert isinstance(second, AskReady) and second.request == b'{"command": "status"}\n'
    assert second.received(READY) == "" and isinstance(next(steps), Empty)
    assert AskReady(Control("/run/a.sock", 7)).received(b'{"ok": false, "error": "not now"}\n') == "not now"
    steps = exchanges(Target("a", PLACE, "/run/a.sock", Probe()), 7, commands=("state", "status"))
    assert next(steps).received(READY) == "" and isinstance(next(steps), Empty), "one answer is enough"


@pytest.mark.parametrize(
    ("listen", "host"), [(":7000", "127.0.0.1"), ("0.0.0.0:7000", "127.0.0.1"), ("[::]:7000", "::1")]
)
def test_a_port_is_dialled_by_a_family_that_clients_come_by(listen: str, host: str) -> None:
    want = desired(ECHO.replace(":7000", listen)).services["echo"]
    assert target_of(want.service, want.instances[1], PATHS.programs).place == Port(host, 7101)


def test_a_remote_instance_is_dialled_where_it_is_and_not_asked_otherwise() -> None:
    want = desired(ECHO.replace(":7000", "[::]:7000") + 'remote = ["[2001:db8:2::2]:7101"]\n').services["echo"]
    target = target_of(want.service, want.instances[-1], PATHS.programs)
    assert (target.place, target.control) == (Port("2001:db8:2::2", 7101), None)


def test_only_where_the_config_lets_it_is_a_control_socket_asked() -> None:
    for text, control in ((ECHO, "/h/run/echo-blue-1.sock"), (ECHO + 'control = "off"\n', None)):
        want = desired(text).services["echo"]
        assert target_of(want.service, want.instances[0], PATHS.programs).control == control
        assert want.instances[0].program is not None
        assert want.instances[0].program.environment["PORTFLEET_CONTROL"] == "/h/run/echo-blue-1.sock"


def test_a_daemon_that_sends_without_end_is_not_listened_to_without_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        talk = Talk(Empty(Port("127.0.0.1", listener.getsockname()[1])))
        assert talk.step() is None
        with listener.accept()[0] as connection:
            connection.setblocking(False)
            found = None
            while found is None:
                with suppress(BlockingIOError):
                    connection.send(b"x" * 65536)
                found = talk.step()
        talk.close()
    assert found.endswith("sends more than 65,536 bytes")
