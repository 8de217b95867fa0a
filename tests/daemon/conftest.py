"""Fixtures: real daemons in a temporary directory, which is also where they import handlers from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemons import Daemons, daemons_in

HANDLERS = '''
import asyncio
import time


def boom(request):
    if request == b"boom":
        raise ValueError("asked for")
    return request


def boom_resp(request):
    if request[0] == b"boom":
        raise ValueError("asked for")
    return request[0] * (100_000 if request[0] == b"x" else 1)


def big(request):
    return request * 100_000


async def slow(request):
    if request.startswith(b"wait"):
        await asyncio.sleep(float(request[4:]))
    return request


def blocking(request):
    if request == b"die":
        import os
        os._exit(7)
    if request == b"boom":
        raise ValueError("asked for")
    if request == b"boom again":
        raise ValueError("asked for")
    if request == b"unreadable":
        return Unreadable()
    time.sleep(0.2)
    return request


def unreadable():
    raise ValueError("not to be read")


class Unreadable:
    def __reduce__(self):
        return unreadable, ()


class Counter:
    """Counts the requests of each connection."""

    def connected(self, conn):
        conn.state = 0

    def request(self, conn, data):
        conn.state += 1
        if data == b"close":
            conn.close()
        if data == b"addresses":
            return repr(conn.addresses).encode()
        return b"%s %d" % (data, conn.state)

    def disconnected(self, conn):
        print("disconnected", conn.state, flush=True)

    def export_state(self, conn):
        return str(conn.state).encode()

    def import_state(self, conn, blob):
        conn.state = int(blob)


class Picky(Counter):
    """Keeps some of its states to itself."""

    def export_state(self, conn):
        if conn.state == 3:
            raise ValueError("asked for")
        return "no bytes" if conn.state == 4 else super().export_state(conn)


class Hanging(Counter):
    """Hangs as it takes over the 300th connection."""

    imported = 0

    def import_state(self, conn, blob):
        super().import_state(conn, blob)
        self.imported += 1
        if self.imported == 300:
            time.sleep(60)


async def waiting_echo(request):
    if request and len(request) % 2:
        await asyncio.sleep(0)
    return request


class EchoObject:
    def request(self, conn, data):
        return data


class Stateful:
    def request(self, conn, data):
        return data


from portfleet_daemon.framing import Framing, FramingError


class Pipe(Framing):
    """Requests end with |."""

    def split(self, buffer, memo):
        at = buffer.find(b"|")
        return (bytes(buffer[:at]), at + 1, None) if at >= 0 else (None, 0, None)

    def reply(self, answer):
        return answer + b"|"


class Fragile(Pipe):
    """Breaks at what it did not expect, also at nothing."""

    def split(self, buffer, memo):
        if buffer[0] == 33:
            raise KeyError("asked for")
        if buffer[0] == 63:
            return b"?", -1, None
        return super().split(buffer, memo)

    def error(self, message):
        return b"error|"


class Eager(Pipe):
    """Its fast path breaks at the end of file."""

    def exchange(self, respond):
        def exchange(data):
            assert data[0]
            return None

        return exchange

    def error(self, message):
        return b"error|"


class Loud(Pipe):
    """Has an error reply larger than any socket buffer."""

    def split(self, buffer, memo):
        if buffer[:1] == b"!":
            raise FramingError("asked for")
        return super().split(buffer, memo)

    def error(self, message):
        return b"e" * 20_000_000 + b"|"


class Unpicklable(Pipe):
    """Its requests cannot be sent to a worker, but one."""

    def split(self, buffer, memo):
        request, end, memo = super().split(buffer, memo)
        return (request if request in (None, b"fine") else lambda: request), end, memo
'''


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    """Starts daemons; `sample:NAME` are handlers for tests."""
    (tmp_path / "sample.py").write_text(HANDLERS)
    with daemons_in(tmp_path) as started:
        yield started
