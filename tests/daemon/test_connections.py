"""The table of connections without a process around it: what only a moment within a turn shows."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from portfleet_daemon import drain
from portfleet_daemon.asyncio_loop import ServingLoop
from portfleet_daemon.client import Client
from portfleet_daemon.connections import Connections
from portfleet_daemon.framing import FRAMINGS
from portfleet_daemon.handler import Handler
from portfleet_daemon.listener import Port
from portfleet_daemon.loop import ServingSelector
from portfleet_daemon.stats import Stats


class Table:
    """Connections in a loop of their own; `run` is a scenario in it, `open` a client whose other end they serve."""

    def __init__(self, handler: Handler) -> None:
        stats = Stats()
        self.selector = ServingSelector(stats=stats, descriptors=4096)
        self.connections = Connections(
            selector=self.selector,
            framing=FRAMINGS["line"](max_request=65536),
            handler=handler,
            stats=stats,
            request_timeout=None,
            idle_timeout=None,
        )

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(15):
                await scenario

        with asyncio.Runner(
            loop_factory=lambda: ServingLoop(self.selector, escaped=self.connections.escaped)
        ) as runner:
            runner.run(bounded())

    def open(self) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        fd = theirs.detach()
        self.connections.accept(fd)
        return ours, fd


class Echo:
    """Keeps no state, but has an object per connection all the same; closes when asked to."""

    def request(self, conn: Client, data: bytes) -> bytes:
        if data == b"close":
            conn.close()
        return data

    def export_state(self, conn: Client) -> bytes:
        return bytes(conn.state or b"")

    def import_state(self, conn: Client, blob: bytes) -> None:
        conn.state = blob


def test_a_reply_does_not_wait_for_the_answer_to_the_next_request() -> None:
    at_second, go_on = asyncio.Event(), asyncio.Event()

    async def respond(request: bytes) -> bytes:
        if request == b"wait":
            at_second.set()
            await go_on.wait()
        return request

    table = Table(Handler(respond=respond))

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        client, fd = table.open()
        filled = 0
        with client, socket.socket(fileno=fd) as server:
            for size in (65536, 1):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        filled += server.send(bytes(size))
            await loop.sock_sendall(client, b"first\nwait\n")
            await at_second.wait()  # the first reply did not fit
            got = bytearray()
            while len(got) < filled + 6:
                got += await loop.sock_recv(client, 1 << 20)
            assert got.endswith(b"\0first\n") and not go_on.is_set()
            go_on.set()
            assert await loop.sock_recv(client, 100) == b"wait\n"
            table.connections.close(fd)
            server.detach()

    table.run(scenario())


def test_a_connection_that_is_to_be_closed_is_released_as_such() -> None:
    table = Table(Handler(respond=None, object=Echo()))

    async def scenario() -> None:
        client, fd = table.open()
        with client:
            (connection,) = table.connections.stateful()
            connection.feed(b"close\nnot any more\n")
            parcel = table.connections.release(connection)
            assert parcel is not None and parcel.eof and not parcel.partial
            await asyncio.sleep(0)  # the close that was asked for must not come now
            table.connections.restore(connection)
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"close\n"
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b""
            table.connections.close(fd)

    table.run(scenario())


@pytest.mark.parametrize("stateful", [False, True])
def test_eviction_looks_at_no_more_connections_than_it_closes(monkeypatch: pytest.MonkeyPatch, stateful: bool) -> None:
    table = Table(Handler(respond=None, object=Echo()) if stateful else Handler(respond=lambda request: request))
    looks = 0

    def counted(fd: int) -> int:
        nonlocal looks
        looks += 1
        return 0

    monkeypatch.setattr(drain, "unread", counted)

    async def scenario() -> None:
        clients = [table.open()[0] for _ in range(300)]
        assert await drain.evict(table.connections, rate=500, count=40) == 40
        assert looks == 40 and table.connections.count == 260
        await drain.close_all(table.connections)
        for client in clients:
            client.close()

    table.run(scenario())


@pytest.mark.timed
def test_eviction_keeps_to_any_rate_and_passes_over_the_busy() -> None:
    table = Table(Handler(respond=None, object=Echo()))

    async def scenario() -> None:
        clients = [table.open()[0] for _ in range(1900)]
        busy = table.connections.stateful()[::10]
        for connection in busy:
            connection.buffer += b"part"
        began = time.monotonic()
        assert await drain.evict(table.connections, rate=1e6, count=1710) == 1710
        assert time.monotonic() - began < 0.4  # at 64 a step of 20 ms it takes 0.53 s
        assert {connection.fd for connection in table.connections.stateful()} == {one.fd for one in busy}
        await drain.close_all(table.connections)
        assert table.connections.count == 0
        for client in clients:
            client.close()

    table.run(scenario())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_accepted_sockets_have_the_listeners_options(address: str) -> None:
    table = Table(Handler(respond=lambda request: request))
    port = Port(
        hosts=(address,),
        port=0,
        backlog=16,
        max_connections=10,
        selector=table.selector,
        connections=table.connections,
    )
    port.open()
    with socket.create_connection((address, port.number), timeout=10):
        port.sockets[0].settimeout(10)
        client, _ = port.sockets[0].accept()
        with client:
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 300
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 30
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 4
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                assert client.getsockopt(socket.SOL_SOCKET, option) == 2 * 65536
    port.close()
