"""All client connections of this process: by number while plain, as a Connection while exceptional."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from portfleet_daemon.client import Client
from portfleet_daemon.connection import Connection
from portfleet_daemon.failures import Failures
from portfleet_daemon.framing import Framing
from portfleet_daemon.handler import Handler
from portfleet_daemon.loop import EPOLLIN, EPOLLOUT, READ_SIZE, ServingSelector
from portfleet_daemon.stats import Stats

CLOSE_AT_ONCE = 64  # connections closed per turn by a time-out: 10,000 at once would stall the others for 50 ms
IDLE_STEPS = 8  # an idle connection is closed between 1 and 9/8 of the time-out
_EXPIRED = IDLE_STEPS + 2
_OLDER = bytes([0, *(min(age + 1, _EXPIRED) for age in range(1, 256))])


@dataclass(frozen=True)
class Parcel:
    """What goes along with a descriptor in a hand-off."""

    partial: bytes = b""  #: received, not answered
    unsent: bytes = b""  #: replied, not accepted by the kernel
    state: bytes | None = None  #: of the handler
    eof: bool = False  #: the peer has shut down its side, and this was read


class Connections:
    """The table of connections and everything that ends one.

    `request_timeout` (seconds, None for none) runs from the first byte of a request, `idle_timeout` from the last
    event.
    """

    def __init__(
        self,
        *,
        selector: ServingSelector,
        framing: Framing,
        handler: Handler,
        stats: Stats,
        request_timeout: float | None,
        idle_timeout: float | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.selector, self.framing, self.handler, self.stats, self.clock = selector, framing, handler, stats, clock
        self.max_request = framing.max_request
        self.read_size = min(READ_SIZE, self.max_request)  # so the fast path cannot meet a request over the limit
        self.respond = handler.respond or (lambda _: None)
        self.request = handler.stateful.request if handler.stateful else (lambda *_: None)
        self.count = 0
        self.partials: dict[int, float] = {}  # descriptor → when its request began, oldest first
        self.on_empty: Callable[[], None] = lambda: None
        self._failures = Failures(stats)
        self._request_timeout, self._idle_timeout = request_timeout, idle_timeout
        self._timer: asyncio.TimerHandle | None = None
        exchange = framing.exchange(handler.respond) if handler.respond else (lambda _: None)
        selector.serve(exchange, self, read_size=self.read_size)

    def start_timers(self) -> None:
        """Begin the idle sweep; needs the running loop."""
        if self._idle_timeout is not None:
            self.selector.age = bytearray(len(self.selector.plain))
            asyncio.get_running_loop().call_later(self._idle_timeout / IDLE_STEPS, self._grow_older)

    # -- the selector's irregular cases

    def arrived(self, fd: int, data: bytes) -> None:
        if data:
            self._make_odd(fd).feed(data)
        else:
            self.close(fd)

    def unsent(self, fd: int, data: bytes, rest: bytes) -> None:
        self.stats.bytes_in += len(data)
        self.stats.in_turn += 1
        connection = self._make_odd(fd)
        connection.out += rest
        connection.watch(EPOLLOUT)

    def awaiting(self, fd: int, data: bytes, reply: Awaitable[Any]) -> None:
        self.stats.bytes_in += len(data)
        connection = self._make_odd(fd)
        connection.wait_for(reply)
        connection.advance()

    def raised(self, fd: int, data: bytes, error: Exception) -> None:
        self.stats.bytes_in += len(data)
        connection = self._make_odd(fd)
        connection.failed(error)
        connection.advance()

    def lost(self, fd: int) -> None:
        self.close(fd)

    # -- coming and going

    def accept(self, fd: int) -> None:
        """Serve a new, non-blocking descriptor."""
        self.count += 1
        if self.selector.age is not None:
            self.selector.age[fd] = 1
        self.selector.watch(fd, EPOLLIN)
        if self.handler.stateful is None:
            self.selector.plain[fd] = 1
            return
        connection = self._make_odd(fd)
        connection.client = Client(connection)
        try:
            getattr(self.handler.stateful, "connected", _nothing)(connection.client)
        except Exception as error:  # noqa: BLE001  whatever a handler raises must hurt only its connection
            self.handler_failed(error)
            self.close(fd)

    def adopt(self, fd: int, parcel: Parcel) -> None:
        """Serve a descriptor handed off by another process, going on exactly where that one stopped."""
        self.count += 1
        if self.selector.age is not None:
            self.selector.age[fd] = 1
        connection = self._make_odd(fd)
        connection.mask = 0
        connection.buffer += parcel.partial
        connection.out += parcel.unsent
        connection.eof = parcel.eof
        if self.handler.stateful is not None:
            connection.client = Client(connection)
            try:
                self.handler.stateful.import_state(connection.client, parcel.state or b"")
            except Exception as error:  # noqa: BLE001  as above
                self.handler_failed(error)
                self.close(fd)
                return
        connection.advance()

    def release(self, fd: int) -> Parcel:
        """Stop serving a descriptor that is about to be handed off; it stays open. Not for one with a reply awaited."""
        connection = self.selector.odd.get(fd)
        if not isinstance(connection, Connection):
            self.selector.unwatch(fd)
            self._drop(fd)
            return Parcel()
        state = self.handler.stateful.export_state(connection.client) if connection.client else None
        connection.watch(0)
        connection.closed = True
        self._drop(fd)
        return Parcel(bytes(connection.buffer), bytes(connection.out), state, connection.eof)

    def close(self, fd: int) -> None:
        """End a connection; never one whose event is still to come in this turn (close_soon is for those)."""
        connection = self.selector.odd.get(fd)
        if not isinstance(connection, Connection):
            self.selector.unwatch(fd)
            self._drop(fd)
            os.close(fd)
            return
        connection.watch(0)
        connection.closed = True
        self._drop(fd)
        os.close(fd)
        if connection.task is not None:
            connection.task.cancel()
        if connection.client is not None:
            try:
                getattr(self.handler.stateful, "disconnected", _nothing)(connection.client)
            except Exception as error:  # noqa: BLE001  as above
                self.handler_failed(error)

    def close_soon(self, connection: Connection) -> None:
        """End a connection after this turn."""
        asyncio.get_running_loop().call_soon(self._close_still_open, connection)

    def _close_still_open(self, connection: Connection) -> None:
        if not connection.closed:
            self.close(connection.fd)

    def _drop(self, fd: int) -> None:
        self.selector.plain[fd] = 0
        self.selector.odd.pop(fd, None)
        self.partials.pop(fd, None)
        if self.selector.age is not None:
            self.selector.age[fd] = 0
        self.count -= 1
        if not self.count:
            self.on_empty()

    # -- looking through them

    def plain_after(self, fd: int) -> int:
        """The first plain descriptor behind `fd`, -1 if there is none."""
        return self.selector.plain.find(1, fd + 1)

    def exceptional(self) -> list[Connection]:
        """All connections that have an object now."""
        return [odd for odd in self.selector.odd.values() if isinstance(odd, Connection)]

    def descriptors(self) -> Iterator[int]:
        """All connections, plain ones first; the table must not change meanwhile."""
        fd = -1
        while (fd := self.plain_after(fd)) >= 0:
            yield fd
        yield from (connection.fd for connection in self.exceptional())

    def _make_odd(self, fd: int) -> Connection:
        connection = Connection(fd, self)
        self.selector.plain[fd] = 0
        self.selector.odd[fd] = connection
        return connection

    def make_plain(self, connection: Connection) -> None:
        """Let a connection's object go: it is at a request boundary with nothing unsent."""
        del self.selector.odd[connection.fd]
        self.selector.plain[connection.fd] = 1

    # -- handlers

    def start(self, answer: Awaitable[Any]) -> asyncio.Future[Any]:
        """The answer as a future; a coroutine runs up to its first wait at once where Python can (3.12)."""
        if isinstance(answer, asyncio.Future):
            return answer
        if sys.version_info >= (3, 12) and asyncio.iscoroutine(answer):
            return asyncio.Task(answer, loop=asyncio.get_running_loop(), eager_start=True)
        return asyncio.ensure_future(answer)

    def handler_failed(self, error: Exception) -> bytes | None:
        """Log and count; the framing's error reply, if it has one."""
        self._failures.note(error)
        return self.framing.error("internal error")

    # -- time-outs

    def await_rest(self, fd: int, since: float) -> None:
        """Note that `fd` waits for the rest of a request begun at `since`."""
        if self._request_timeout is None or self.partials.get(fd) == since:
            return
        self.partials.pop(fd, None)
        self.partials[fd] = since
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._request_timeout, self._expire)

    def _expire(self) -> None:
        assert self._request_timeout is not None  # noqa: S101  the timer is not set without
        self._timer = None
        latest = self.clock() - self._request_timeout
        oldest = list(islice(self.partials.items(), CLOSE_AT_ONCE))
        for fd, since in oldest:
            if since > latest:
                self._timer = asyncio.get_running_loop().call_later(since - latest, self._expire)
                return
            self.stats.errors += 1
            self.close(fd)
        if self.partials:
            self._timer = asyncio.get_running_loop().call_later(0, self._expire)

    def _grow_older(self) -> None:
        assert self._idle_timeout is not None and self.selector.age is not None  # noqa: S101  as in _expire
        self.selector.age = self.selector.age.translate(_OLDER)
        self._close_idle()
        asyncio.get_running_loop().call_later(self._idle_timeout / IDLE_STEPS, self._grow_older)

    def _close_idle(self) -> None:
        age = self.selector.age
        assert age is not None  # noqa: S101  as in _expire
        for _ in range(CLOSE_AT_ONCE):
            fd = age.find(_EXPIRED)
            if fd < 0:
                return
            connection = self.selector.odd.get(fd)
            if isinstance(connection, Connection) and connection.task is not None:
                age[fd] = 1  # it waits for us
            else:
                self.close(fd)
        asyncio.get_running_loop().call_soon(self._close_idle)


def _nothing(*_: object) -> None:
    """What a handler class without `connected` or `disconnected` does."""
