"""Pacing: closing connections at a rate, each at a request boundary."""

from __future__ import annotations

import asyncio
import random
from itertools import islice

from portfleet_daemon.connection import Connection
from portfleet_daemon.connections import Connections
from portfleet_daemon.sockets import unread
from portfleet_daemon.timeouts import CLOSE_AT_ONCE

TICK = 0.02  # seconds between steps, jittered by half so that clients of several instances do not reconnect in step


async def evict(connections: Connections, *, rate: float, count: int | None = None) -> int:
    """Close `count` connections (None: until none is left) at `rate` per second; how many were closed.

    Only connections at a request boundary are closed, so those in the midst of a request wait for their turn.
    """
    loop = asyncio.get_running_loop()
    done, credit, cursor, last = 0, 0.0, -1, loop.time()
    while connections.count and (count is None or done < count):
        await asyncio.sleep(TICK * random.uniform(0.5, 1.5))  # noqa: S311  jitter, no secret
        now = loop.time()
        credit, last = min(credit + rate * (now - last), max(1.0, rate / 10)), now
        wanted = min(int(credit), CLOSE_AT_ONCE, connections.count if count is None else count - done)
        closed, cursor = _close_some(connections, wanted, cursor)
        credit -= closed
        done += closed
    return done


def _close_some(connections: Connections, wanted: int, cursor: int) -> tuple[int, int]:
    closed = 0
    for _ in range(2 * wanted):  # some have a request waiting; look a little further, then let them be answered
        if closed == wanted:
            break
        cursor = connections.plain_after(cursor)
        if cursor < 0:
            break
        if not unread(cursor):
            connections.close(cursor)
            closed += 1
    for connection in connections.exceptional() if closed < wanted else ():
        if at_boundary(connection) and closed < wanted:
            connections.close(connection.fd)
            closed += 1
    return closed, cursor


def at_boundary(connection: Connection) -> bool:
    """Whether a connection that has an object (its handler keeps state) is between two requests."""
    busy = connection.buffer or connection.out or connection.task
    return not busy and not unread(connection.fd)


async def close_all(connections: Connections) -> None:
    """Close every connection, a few per turn."""
    while some := list(islice(connections.descriptors(), CLOSE_AT_ONCE)):
        for fd in some:
            connections.close(fd)
        await asyncio.sleep(0)
