"""Time-outs at next to no cost: nothing is armed, cancelled or compared per request.

A partial request is noted with its first byte's time in a dict, which keeps the order of insertion, so one timer has to
look at the oldest only; likewise a connection that waits for its peer to close. For idle connections there is one byte
per descriptor, set to 1 by any event; a sweep makes all bytes older in one `bytes.translate` and finds the expired with
`find`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice

from portfleet_daemon.loop import ServingSelector
from portfleet_daemon.stats import Stats

CLOSE_AT_ONCE = 64  # connections closed per turn: 10,000 at once would stall the others for 50 ms
LINGER = 1.0  # seconds for a peer to close after our last reply
IDLE_STEPS = 8  # an idle connection is closed between 1 and 9/8 of the time-out
_EXPIRED = IDLE_STEPS + 2
_OLDER = bytes([0, *(min(age + 1, _EXPIRED) for age in range(1, 256))])


class Deadlines:
    """Calls `expire` with each descriptor `after` seconds from its noted time, a few per turn."""

    def __init__(self, expire: Callable[[int], None], *, after: float, clock: Callable[[], float]) -> None:
        self._expire, self._after, self._clock = expire, after, clock
        self._since: dict[int, float] = {}  # oldest first
        self._timer: asyncio.TimerHandle | None = None

    def note(self, fd: int, since: float) -> None:
        """Count from `since`, a time later than any before, unless that is known already."""
        if self._since.get(fd) == since:
            return
        self._since.pop(fd, None)
        self._since[fd] = since
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._after, self._look)

    def forget(self, fd: int) -> None:
        """Do not count any more."""
        self._since.pop(fd, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        latest = self._clock() - self._after
        for fd, since in list(islice(self._since.items(), CLOSE_AT_ONCE)):
            if since > latest:
                self._timer = loop.call_later(since - latest, self._look)
                return
            self._expire(fd)
        if self._since:
            self._timer = loop.call_later(0, self._look)


class Timeouts:
    """Closes connections whose request takes over `request` seconds, or that are idle for `idle` (None: never).

    `close` ends a connection; `awaits_reply` says whether the handler is still at a request of it.
    """

    def __init__(
        self,
        *,
        selector: ServingSelector,
        stats: Stats,
        request: float | None,
        idle: float | None,
        close: Callable[[int], None],
        awaits_reply: Callable[[int], bool],
        clock: Callable[[], float],
    ) -> None:
        self._selector, self._stats, self._idle, self._clock = selector, stats, idle, clock
        self._close, self._awaits_reply = close, awaits_reply
        self._partials = None if request is None else Deadlines(self._give_up, after=request, clock=clock)
        self._ending = Deadlines(close, after=LINGER, clock=clock)

    def start(self) -> None:
        """Begin the idle sweep; needs the running loop."""
        if self._idle is not None:
            self._selector.age = bytearray(len(self._selector.plain))
            asyncio.get_running_loop().call_later(self._idle / IDLE_STEPS, self._grow_older)

    def await_rest(self, fd: int, since: float) -> None:
        """Note that `fd` waits for the rest of a request begun at `since`."""
        if self._partials is not None:
            self._partials.note(fd, since)

    def await_end(self, fd: int) -> None:
        """Note that `fd` waits for its peer to close."""
        self.request_over(fd)
        self._ending.note(fd, self._clock())

    def request_over(self, fd: int) -> None:
        """Note that `fd` waits for nothing, or is no more."""
        if self._partials is not None:
            self._partials.forget(fd)
        self._ending.forget(fd)

    def _give_up(self, fd: int) -> None:
        self._stats.errors += 1
        self._close(fd)

    def _grow_older(self) -> None:
        selector = self._selector
        selector.age = (selector.age or bytearray()).translate(_OLDER)
        self._close_idle()
        asyncio.get_running_loop().call_later((self._idle or 0.0) / IDLE_STEPS, self._grow_older)

    def _close_idle(self) -> None:
        age = self._selector.age or bytearray()
        for _ in range(CLOSE_AT_ONCE):
            fd = age.find(_EXPIRED)
            if fd < 0:
                return
            if self._awaits_reply(fd):
                age[fd] = 1  # it waits for this process
            else:
                self._close(fd)
        asyncio.get_running_loop().call_soon(self._close_idle)
