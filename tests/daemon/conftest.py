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
    time.sleep(0.2)
    return request


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


class Stateful:
    def request(self, conn, data):
        return data


from portfleet_daemon.framing import Framing


class Pipe(Framing):
    """Requests end with |."""

    def split(self, buffer, memo):
        at = buffer.find(b"|")
        return (bytes(buffer[:at]), at + 1, None) if at >= 0 else (None, 0, None)

    def reply(self, answer):
        return answer + b"|"
'''


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    """Starts daemons; `sample:NAME` are handlers for tests."""
    (tmp_path / "sample.py").write_text(HANDLERS)
    with daemons_in(tmp_path) as started:
        yield started
