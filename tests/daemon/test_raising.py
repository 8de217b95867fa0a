"""Whatever a handler raises, wherever it is called: one connection notices, the log and the counter tell of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemons import Client, Daemon, Daemons, daemons_in, wait_for

HANDLERS = '''
import asyncio
import sys


class Unprintable(Exception):
    def __repr__(self):
        raise ValueError("repr")

    __str__ = __repr__


class Vicious(BaseException):
    """Its attributes raise, too, and none of it an Exception."""

    def __repr__(self):
        raise SystemExit(3)

    __str__ = __repr__

    @property
    def __notes__(self):
        raise KeyboardInterrupt

    @property
    def __traceback__(self):
        raise GeneratorExit


class Long(Exception):
    def __repr__(self):
        return "x" * 10_000_000


def deep(request):
    return deep(request)


def leave(request):
    sys.exit(4)


def stop(request):
    raise StopIteration("asked for")


KINDS = {
    b"Exception": ValueError("asked for"),
    b"BaseException": BaseException("asked for"),
    b"SystemExit": SystemExit(5),
    b"KeyboardInterrupt": KeyboardInterrupt(),
    b"CancelledError": asyncio.CancelledError(),
    b"GeneratorExit": GeneratorExit(),
    b"MemoryError": MemoryError(),
    b"Unprintable": Unprintable(),
    b"Vicious": Vicious(),
    b"Long": Long(),
    b"group": BaseExceptionGroup("several", [SystemExit(6), Unprintable()]),
}
CALLS = {b"deep": deep, b"exit": leave, b"StopIteration": stop}


def respond(request):
    if request in KINDS:
        raise KINDS[request]
    return CALLS.get(request, bytes)(request)


async def at_once(request):
    return respond(request)


async def later(request):
    await asyncio.sleep(0)
    return respond(request)


async def in_background(request):
    """What it leaves behind raises, in a task and in a callback, and this request is answered."""
    async def task():
        respond(request)

    waiting = asyncio.ensure_future(task())
    asyncio.get_running_loop().call_soon(respond, request)
    await asyncio.wait({waiting})
    return request


class Fate:
    """Raises in the method that the request names, of its next turn."""

    def connected(self, conn):
        conn.state = b""

    def request(self, conn, data):
        where, _, conn.state = data.partition(b" ")
        if where == b"request":
            respond(conn.state)
        if where == b"disconnected":
            conn.close()
        return data

    def disconnected(self, conn):
        respond(conn.state or b"")

    def export_state(self, conn):
        respond(conn.state.removeprefix(b"out "))
        return conn.state

    def import_state(self, conn, blob):
        respond(blob.removeprefix(b"in "))
        conn.state = blob


class Unwelcoming:
    def connected(self, conn):
        if KINDS:
            raise KINDS.popitem()[1]

    def request(self, conn, data):
        return data


shared = {}


def shared_future(request):
    if request not in shared:
        shared[request] = asyncio.ensure_future(asyncio.sleep(0.5, request))
    return shared[request]
'''
KINDS = [
    "Exception", "BaseException", "SystemExit", "KeyboardInterrupt", "CancelledError", "GeneratorExit", "MemoryError",
    "Unprintable", "Vicious", "Long", "group", "deep", "exit", "StopIteration",
]  # fmt: skip


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    (tmp_path / "raising.py").write_text(HANDLERS)
    with daemons_in(tmp_path) as started:
        yield started


def serves_on(daemon: Daemon, bystander: Client, errors: int) -> None:
    """The daemon lives, a client that did nothing is served, and the errors are counted, each place logged once."""
    assert bystander.ask(b"x\n") == b"x\n"
    assert daemon.until(errors=errors)["state"] == "ready"
    assert daemon.process.poll() is None
    assert len(daemon.log) < 1_000_000


@pytest.mark.parametrize(
    ("handler", "flags"),
    [("respond", ()), ("at_once", ()), ("later", ()), ("respond", ("--workers", "2"))],
)
def test_a_request_costs_its_own_connection(daemons: Daemons, handler: str, flags: tuple[str, ...]) -> None:
    daemon = daemons.start(*flags, handler=f"raising:{handler}")
    with daemon.connect() as bystander:
        for number, kind in enumerate(KINDS):
            with daemon.connect() as client:
                client.send(b"before\n" + kind.encode() + b"\nbehind\n")
                assert client.receive(100) == b"before\n", kind
            serves_on(daemon, bystander, number + 1)
    assert daemon.until(connections=0)
    assert daemon.log.count("handler-failed") > len(KINDS) / 2


def test_in_the_fast_path_and_where_the_framing_has_an_error_reply(daemons: Daemons) -> None:
    (daemons.directory / "words.py").write_text(
        "import raising\ndef respond(words):\n    return raising.respond(words[0])\n"
    )
    daemon = daemons.start("--framing", "resp", handler="words:respond")
    with daemon.connect() as client:
        for kind in KINDS:
            assert client.ask(kind.encode() + b"\r\n") == b"-ERR internal error\r\n", kind
        client.send(b"x\r\n")
        assert client.receive(7) == b"$1\r\nx\r\n"
    assert daemon.status()["errors"] == len(KINDS)


def test_what_a_handler_left_running_costs_nobody_a_connection(daemons: Daemons) -> None:
    daemon = daemons.start(handler="raising:in_background")
    with daemon.connect() as client:
        for kind in KINDS:
            assert client.ask(kind.encode() + b"\n") == kind.encode() + b"\n"
        assert daemon.status()["errors"] >= 2  # those that asked the process to exit
    assert daemon.process.poll() is None


def test_every_method_of_a_class(daemons: Daemons) -> None:
    daemon = daemons.start(handler="raising:Fate")
    with daemon.connect() as bystander:
        for number, kind in enumerate(KINDS):
            with daemon.connect() as client:
                client.send(b"request " + kind.encode() + b"\n")
                assert client.closed(), kind
            serves_on(daemon, bystander, 3 * number + 2)  # `disconnected` raised it once more
            with daemon.connect() as client:
                client.send(b"disconnected " + kind.encode() + b"\n")
                assert client.line() and client.closed()
            serves_on(daemon, bystander, 3 * number + 3)


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ("raise SystemExit(1)", "answer"),
        ("return [b'x', b'y'], 0", "answer"),
        ("return [b'x', b'y'], 10 ** 9", "answer"),
        ("return [b'x', b'y'], -1", "answer"),
        ("return None", "answer"),
        ("return [b'x', b'y'], len(data)", "'no bytes'"),
        ("return [b'x', b'y'], len(data)", "None"),
    ],
)
@pytest.mark.parametrize("sent", [b"x|y|", b"x|y|z"])
def test_a_framing_that_finds_many_and_breaks(daemons: Daemons, body: str, reply: str, sent: bytes) -> None:
    (daemons.directory / "many.py").write_text(
        "from portfleet_daemon.framing import Framing\n\nclass Many(Framing):\n"
        "    def split(self, buffer, memo):\n        at = buffer.find(b'|')\n"
        "        return (bytes(buffer[:at]), at + 1, None) if at >= 0 else (None, 0, None)\n\n"
        f"    def split_all(self, data):\n        if len(data) > 2:\n            {body}\n"
        "        return super().split_all(data)\n\n"
        f"    def reply(self, answer):\n        return answer if answer == b'w' else {reply}\n"
    )
    daemon = daemons.start("--framing", "many:Many")
    with daemon.connect() as bystander:
        for beginning in (b"", b"w|"):
            with daemon.connect() as client:
                client.send(beginning)
                assert client.receive(len(beginning) // 2) == beginning[:1]
                client.send(sent)
                assert client.closed()
        bystander.send(b"w|")
        assert bystander.receive(1) == b"w"
    assert daemon.until(connections=0)["errors"] >= 2


def test_connected(daemons: Daemons) -> None:
    daemon = daemons.start(handler="raising:Unwelcoming")
    for number in range(11):
        with daemon.connect() as client:
            assert client.closed()
        daemon.until(errors=number + 1)
    with daemon.connect() as client:
        assert client.ask(b"x\n") == b"x\n"
    assert daemon.until(connections=0)


def test_a_state_that_cannot_be_taken_along_or_in(daemons: Daemons) -> None:
    old, new = daemons.start(handler="raising:Fate"), daemons.start(handler="raising:Fate")
    asked = [f"{way} {kind}".encode() for way in ("out", "in", "both") for kind in KINDS]
    clients = [old.connect() for _ in asked]
    for client, words in zip(clients, asked, strict=True):
        assert client.ask(b"state " + words + b"\n") == b"state " + words + b"\n"
    last = old.stream(command="handoff", to=new.control)[-1]
    number = len(KINDS)
    assert (last["ok"], last["moved"], last["remaining"]) == (True, 2 * number, number)
    assert (old.status()["errors"], new.until(connections=number)["errors"]) == (number, number)
    for client, words in zip(clients, asked, strict=True):
        if words.startswith(b"in "):
            assert client.closed()
        else:
            assert client.ask(b"x\n") == b"x\n"


def test_a_client_that_leaves_does_not_cancel_what_another_waits_for(daemons: Daemons) -> None:
    daemon = daemons.start(handler="raising:shared_future")
    with daemon.connect() as stays:
        with daemon.connect() as leaves:
            leaves.send(b"x\n")
            stays.send(b"x\n")
            wait_for(lambda: daemon.status()["bytes_in"] == 4, "both requests")
            leaves.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert stays.line() == b"x\n"
