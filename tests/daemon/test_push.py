"""A class handler speaks first: from timers and to everybody, in order, with back-pressure, over a hand-off."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support.daemons import Daemons, wait_for

HANDLERS = """
import asyncio
from portfleet_daemon.client import MOST_UNSENT, broadcast


class Pusher:
    def __init__(self):
        self.everybody = {}
        self.told = []

    def connected(self, conn):
        conn.state = None
        self.everybody[conn] = None

    def disconnected(self, conn):
        del self.everybody[conn]

    def moved(self, conn):
        del self.everybody[conn]

    def export_state(self, conn):
        conn.send(b"exported")
        return (conn.state or "").encode()

    def import_state(self, conn, blob):
        self.connected(conn)
        conn.state = blob.decode()
        conn.send(b"imported " + blob)

    async def request(self, conn, data):
        verb, _, rest = data.partition(b" ")
        if verb == b"name":
            conn.state = rest.decode()
        if verb == b"all":
            return b"%d" % await broadcast(self.everybody, rest)
        if verb == b"before":
            conn.send(rest)
        if verb == b"later":
            asyncio.get_running_loop().call_later(0.05, conn.send, rest)
        if verb == b"many":
            return await self.many()
        if verb == b"count":
            return b"%d" % len(self.everybody)
        return b"ok"

    async def many(self):
        slow = next(one for one in self.everybody if one.state == "slow")
        sent = 0
        while slow.send(b"%09d" % sent + b"x" * 990):
            sent += 1
        assert MOST_UNSENT < slow.unsent < MOST_UNSENT + 2000
        self.waiting = asyncio.ensure_future(slow.drained())
        self.waiting.add_done_callback(lambda task: slow.send(b"drained" if task.result() else b"gone"))
        return b"%d" % sent
"""


@pytest.fixture
def pushing(daemons: Daemons) -> Daemons:
    (daemons.directory / "pushing.py").write_text(HANDLERS)
    return daemons


def test_a_message_from_a_timer_and_one_before_the_reply(pushing: Daemons) -> None:
    with pushing.start(handler="pushing:Pusher").connect() as client:
        assert client.ask(b"before first\n") == b"first\n"
        assert client.line() == b"ok\n"
        assert client.ask(b"later on\n") == b"ok\n"
        assert client.line() == b"on\n"


def test_a_broadcast_reaches_everybody_that_is_there(pushing: Daemons) -> None:
    daemon = pushing.start(handler="pushing:Pusher")
    clients = [daemon.connect() for _ in range(600)]
    wait_for(lambda: daemon.status()["connections"] == 600, "600 connections")
    clients[0].sock.close()
    wait_for(lambda: daemon.status()["connections"] == 599, "599 connections")
    clients[1].send(b"all hello\n")
    assert all(client.line() == b"hello\n" for client in clients[1:])
    assert clients[1].line() == b"599\n"
    assert daemon.status()["errors"] == 0


def test_a_client_that_does_not_read_costs_a_bounded_amount_and_loses_nothing_that_was_taken(pushing: Daemons) -> None:
    daemon = pushing.start(handler="pushing:Pusher")
    with daemon.connect() as slow, daemon.connect() as other:
        assert slow.ask(b"name slow\n") == b"ok\n"
        sent = int(other.ask(b"many\n"))
        assert other.ask(b"x\n") == b"ok\n"
        assert [int(slow.line()[:9]) for _ in range(sent)] == list(range(sent))
        assert slow.line() == b"drained\n"


def test_one_that_resets_with_messages_unsent_is_gone(pushing: Daemons) -> None:
    daemon = pushing.start(handler="pushing:Pusher")
    with daemon.connect() as slow, daemon.connect() as other:
        assert slow.ask(b"name slow\n") == b"ok\n"
        other.ask(b"many\n")
        slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        slow.sock.close()
        wait_for(lambda: other.ask(b"count\n") == b"1\n", "the other alone")
        assert other.ask(b"all hi\n") == b"hi\n"
        assert other.line() == b"1\n"
    assert daemon.status()["errors"] == 0


def test_what_is_unsent_goes_along_and_the_receiver_pushes_on(pushing: Daemons) -> None:
    old, new = pushing.start(handler="pushing:Pusher"), pushing.start(handler="pushing:Pusher")
    with old.connect() as slow, old.connect() as other, new.connect() as there:
        assert slow.ask(b"name slow\n") == b"ok\n"
        sent = int(other.ask(b"many\n"))
        assert old.stream(command="handoff", to=new.control)[-1]["moved"] == 2
        assert [int(slow.line()[:9]) for _ in range(sent)] == list(range(sent))
        assert there.ask(b"all tick\n") == b"tick\n"
        assert there.line() == b"3\n"
        assert slow.line() == b"tick\n", "what it was to be told while it did not read was refused"
        assert other.line() == b"exported\n"
        assert [other.line() for _ in range(2)] == [b"imported \n", b"tick\n"]
    with old.connect() as late:
        assert late.ask(b"count\n") == b"1\n", "moved ones are told of"


def test_the_ticker(daemons: Daemons) -> None:
    example = Path(__file__).parents[2] / "examples/ticker.py"
    (daemons.directory / "ticker.py").write_text(example.read_text())
    old, new = daemons.start(handler="ticker:Ticker"), daemons.start(handler="ticker:Ticker")
    with old.connect() as client:
        assert client.ask(b"subscribe EUR\n") == b"ok\n"
        assert client.line().startswith(b"EUR 1.0")
        assert old.stream(command="handoff", to=new.control)[-1]["moved"] == 1
        assert all(client.line().startswith(b"EUR ") for _ in range(5))
        client.send(b"unsubscribe EUR\n")
        while client.line() != b"ok\n":
            pass
        assert client.ask(b"subscribe XXX\n").startswith(b"error: ")
