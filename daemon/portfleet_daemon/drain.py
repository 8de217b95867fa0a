"""Pacing: closing connections at a rate, each at a request boundary."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import islice

from portfleet_daemon.connection import Connection
from portfleet_daemon.connections import Connections
from portfleet_daemon.sockets import unread
from portfleet_daemon.timeouts import CLOSE_AT_ONCE

TICK = 0.02  # seconds between steps, jittered by half so that clients of several instances do not reconnect in step


async def evict(connections: Connections, *, rate: float, count: int | None = None) -> int:
    """Close `count` connections (None: until none is left) at `rate` per second; return how many were closed.

    Only connections at a request boundary are closed, so those in the midst of a request wait for their turn.
    """
    loop = asyncio.get_running_loop()
    done, credit, last = 0, 0.0, loop.time()
    candidates = _rounds(connections)
    while connections.count and (count is None or done < count):
        await asyncio.sleep(TICK * random.uniform(0.5, 1.5))  # noqa: S311  jitter, no secret
        now = loop.time()
        credit, last = min(credit + rate * (now - last), max(1.0, rate / 10)), now
        due = min(int(credit), connections.count if count is None else count - done)
        while due:
            target = min(due, CLOSE_AT_ONCE)
            closed = _close_some(connections, target, candidates)
            due -= closed
            credit -= closed
            done += closed
            if closed < target:
                break
            await asyncio.sleep(0)
    return done


def _close_some(connections: Connections, target: int, candidates: Iterator[int | None]) -> int:
    closed = 0
    for fd in islice(candidates, 2 * target):  # some are busy; look a little further, the rest can be answered first
        if fd is None:
            break
        if _at_boundary(connections, fd):
            connections.close(fd)
            closed += 1
            if closed == target:
                break
    return closed


def _rounds(connections: Connections) -> Iterator[int | None]:
    """Yield all descriptors, plain ones first, then None; and again for ever."""
    while True:
        fd = -1
        while (fd := connections.selector.plain_after(fd)) >= 0:
            yield fd
        for connection in connections.stateful():
            if connections.selector.objects.get(connection.fd) is connection:  # otherwise it has become plain, or ended
                yield connection.fd
        yield None


def _at_boundary(connections: Connections, fd: int) -> bool:
    """Return whether a connection is between two requests."""
    connection = connections.selector.objects.get(fd)
    busy = isinstance(connection, Connection) and (connection.buffer or connection.out or connection.task)
    return not busy and not unread(fd)


async def close_all(connections: Connections) -> None:
    """Close every connection, a few per turn."""
    while some := list(islice(connections.descriptors(), CLOSE_AT_ONCE)):
        for fd in some:
            connections.close(fd)
        await asyncio.sleep(0)
