"""Time-outs at next to no cost: nothing is armed, cancelled or compared per request.

A partial request is noted with its first byte's time in a dict, which keeps the order of insertion, so one timer has to
look at the oldest only. For idle connections there is one byte per descriptor, set to 1 by any event; a sweep makes all
bytes older in one `bytes.translate` and finds the expired with `find`.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portfleet_daemon.connections import Connections

CLOSE_AT_ONCE = 64  # connections closed per turn: 10,000 at once would stall the others for 50 ms
IDLE_STEPS = 8  # an idle connection is closed between 1 and 9/8 of the time-out
_EXPIRED = IDLE_STEPS + 2
_OLDER = bytes([0, *(min(age + 1, _EXPIRED) for age in range(1, 256))])


class Timeouts:
    """Closes connections whose request takes over `request` seconds, or that are idle for `idle` (None: never)."""

    def __init__(self, connections: Connections, *, request: float | None, idle: float | None) -> None:
        self._connections, self._request, self._idle = connections, request, idle
        self._partials: dict[int, float] = {}  # descriptor → when its request began, oldest first
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin the idle sweep; needs the running loop."""
        if self._idle is not None:
            selector = self._connections.selector
            selector.age = bytearray(len(selector.plain))
            asyncio.get_running_loop().call_later(self._idle / IDLE_STEPS, self._grow_older)

    def await_rest(self, fd: int, since: float) -> None:
        """Note that `fd` waits for the rest of a request begun at `since`."""
        if self._request is None or self._partials.get(fd) == since:
            return
        self._partials.pop(fd, None)
        self._partials[fd] = since
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._request, self._expire)

    def request_over(self, fd: int) -> None:
        """Note that `fd` waits for nothing, or is no more."""
        self._partials.pop(fd, None)

    def _expire(self) -> None:
        loop, timeout = asyncio.get_running_loop(), self._request or 0.0
        self._timer = None
        latest = self._connections.clock() - timeout
        for fd, since in list(islice(self._partials.items(), CLOSE_AT_ONCE)):
            if since > latest:
                self._timer = loop.call_later(since - latest, self._expire)
                return
            self._connections.stats.errors += 1
            self._connections.close(fd)
        if self._partials:
            self._timer = loop.call_later(0, self._expire)

    def _grow_older(self) -> None:
        selector = self._connections.selector
        selector.age = (selector.age or bytearray()).translate(_OLDER)
        self._close_idle()
        asyncio.get_running_loop().call_later((self._idle or 0.0) / IDLE_STEPS, self._grow_older)

    def _close_idle(self) -> None:
        age = self._connections.selector.age or bytearray()
        for _ in range(CLOSE_AT_ONCE):
            fd = age.find(_EXPIRED)
            if fd < 0:
                return
            if self._connections.awaits_reply(fd):
                age[fd] = 1  # it waits for us
            else:
                self._connections.close(fd)
        asyncio.get_running_loop().call_soon(self._close_idle)
