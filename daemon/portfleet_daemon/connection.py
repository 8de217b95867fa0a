"""A stateful connection: the only per-connection object, and it goes when the state does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from typing import Any, Protocol

from portfleet_daemon.client import Client
from portfleet_daemon.framing import FramingError
from portfleet_daemon.framing.base import FLUSH_AT, Answered, is_awaitable
from portfleet_daemon.loop import EPOLLIN, EPOLLOUT
from portfleet_daemon.service import Service
from portfleet_daemon.sockets import acknowledge_now, shut_down


class Table(Protocol):
    """The table that a connection is in."""

    def close(self, fd: int) -> None: ...
    def make_plain(self, connection: Connection) -> None: ...


class Connection:
    """Partial request, unsent replies, awaited reply or handler state of one descriptor.

    Order is kept by answering one request at a time: while a reply is awaited or bytes are unsent, nothing more is read
    or parsed, which is the back-pressure.
    """

    __slots__ = (
        "buffer",
        "client",
        "closed",
        "ending",
        "eof",
        "fd",
        "mask",
        "memo",
        "out",
        "peer",
        "service",
        "since",
        "table",
        "task",
        "task_since",
    )
    after_batch = False

    def __init__(self, fd: int, *, service: Service, table: Table, peer: bytes = b"") -> None:
        self.fd = fd
        self.peer = peer  # the client, as a proxy said (proxy.PEER); b"": the peer of the socket
        self.service = service
        self.table = table
        self.buffer = bytearray()  # received, not yet answered
        self.memo: Any = None  # the framing's, about buffer
        self.out = bytearray()  # replies not yet accepted by the kernel
        self.since: float | None = None  # when the first byte of the partial request came
        self.task: asyncio.Future[Any] | None = None  # the awaited reply
        self.task_since = 0.0
        self.mask = EPOLLIN  # what the epoll set has; 0: not in it
        self.eof = False  # the peer has shut down its side
        self.ending = False  # read nothing more, close once `out` is sent
        self.closed = False
        self.client: Client | None = None

    def event(self, mask: int) -> None:  # noqa: ARG002  level-triggered: the system call's result says more than the mask
        """Act on what the epoll set reports; what arrives once the connection is to be closed is ignored."""
        if self.out:
            if self.flush() and not self.out:
                self.advance()
            return
        try:
            data = os.read(self.fd, self.service.read_size)
        except BlockingIOError:
            return
        except OSError:
            self.table.close(self.fd)
            return
        if not self.ending:
            self.feed(data)
        elif not data:
            self.table.close(self.fd)

    def feed(self, data: bytes) -> None:
        """Take `data`, b"" for end of file, and answer the whole requests."""
        if data:
            self.buffer += data
            self.service.stats.bytes_in += len(data)
        else:
            self.eof = True
        self.advance()

    def advance(self) -> None:
        """Answer whole requests of the buffer in order, until one waits or the socket is full; then settle."""
        while True:
            self._answer_whole()
            if self.out and not self.flush():
                return
            if self.out or self.task is not None or self.since is not None or self.ending or not self.buffer:
                break
        self._settle()

    def _answer_whole(self) -> None:
        service = self.service
        while self.buffer and self.task is None and not self.ending and len(self.out) < FLUSH_AT:
            if service.pipelined and self.memo is None and self._answer_many():
                continue
            try:
                request, end, self.memo = service.framing.split(self.buffer, self.memo)
                if not 0 <= end <= len(self.buffer):
                    raise ValueError(f"split took {end} of {len(self.buffer)} bytes")
                if end > service.max_request or (not end and len(self.buffer) >= service.max_request):
                    raise FramingError(f"request over {service.max_request} bytes")
            except FramingError as error:
                service.stats.errors += 1
                self._end(service.error_reply(str(error)))
                return
            except BaseException as error:  # noqa: BLE001  a framing of one's own; where the next request begins is unknown
                self._end(service.handler_failed(error))
                return
            if not end:
                if self.since is None:
                    self.since = service.selector.now
                return
            del self.buffer[:end]
            self.since = None
            if request is not None:
                self._answer(request)

    def _answer_many(self) -> bool:
        """Answer what is whole at the front of the buffer in one pass; return False if nothing is."""
        service = self.service
        try:
            answered = service.one_pass(bytes(self.buffer[: service.read_size]))
        except BaseException as error:  # noqa: BLE001  a framing of one's own, as below
            self._end(service.handler_failed(error))
            return True
        if answered is not None:
            self.take(Answered(*answered))
        return answered is not None

    def take(self, answered: Answered) -> None:
        """Go on behind the requests of the buffer that have been answered in one pass."""
        del self.buffer[: answered.end]
        self.since = None
        self.out += answered.replies
        self.service.stats.answered(answered.number)
        if answered.waiting is not None:
            self.wait_for(answered.waiting)
        elif answered.failure is not None:
            self.failed(answered.failure)

    def _answer(self, request: Any) -> None:
        service = self.service
        try:
            answer = service.respond(request) if self.client is None else service.request(self.client, request)
            if is_awaitable(answer):
                self.wait_for(answer)
                return
            self.out += service.framing.reply(answer)
        except BaseException as error:  # noqa: BLE001  whatever a handler raises must hurt only its connection
            self.failed(error)
            return
        service.stats.in_turn += 1

    def wait_for(self, answer: Awaitable[Any]) -> None:
        """Await the handler's answer; reply at once if it is there already."""
        try:
            task = self.service.start(answer)
            if not task.done():
                task.add_done_callback(self._answered)
                self.task, self.task_since = task, self.service.clock()
                return
        except BaseException as error:  # noqa: BLE001  also what is neither bytes nor awaitable, or ended at once
            self.failed(error)
            return
        self._finish(task)
        self.service.stats.in_turn += 1

    def _answered(self, task: asyncio.Future[Any]) -> None:
        if self.closed:
            if not task.cancelled():
                task.exception()  # retrieved, or asyncio logs it as forgotten
            return
        self.task = None
        self._finish(task)
        self.service.stats.awaited(self.service.clock() - self.task_since)
        self.advance()

    def _finish(self, task: asyncio.Future[Any]) -> None:
        try:
            self.out += self.service.framing.reply(task.result())
        except asyncio.CancelledError:
            self.failed(RuntimeError("the handler's task was cancelled"))
        except BaseException as error:  # noqa: BLE001  as in _answer
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """Answer a request whose handler raised: an error reply, or the end of the connection."""
        reply = self.service.handler_failed(error)
        if reply is None:
            self._end(None)
        else:
            self.out += reply

    def _end(self, reply: bytes | None) -> None:
        self.out += reply or b""
        self.buffer.clear()
        self.since = None
        self.ending = True

    def flush(self) -> bool:
        """Write what the socket takes; return False if the connection is closed."""
        try:
            sent = os.write(self.fd, self.out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.table.close(self.fd)
            return False
        self.service.stats.bytes_out += sent
        del self.out[:sent]
        if not self.out and self.client is not None:
            self.client.wake()
        return True

    def _settle(self) -> None:
        """Watch for what the connection needs next, or make it plain."""
        service = self.service
        if self.out:
            self.watch(EPOLLOUT)  # also while a reply is awaited: those before it need not wait for that
        elif self.task is not None:
            self.watch(0)
        elif self.eof:
            self.table.close(self.fd)
            return
        elif self.ending:
            self._linger()
            return
        else:
            self.watch(EPOLLIN)
            if self.since is not None:
                service.timeouts.await_rest(self.fd, self.since)
                acknowledge_now(self.fd)
                return
            if self.client is None:
                self.table.make_plain(self)
        service.timeouts.request_over(self.fd)

    def _linger(self) -> None:
        """Say that this is all, and close when the peer has too, or soon.

        A socket closed with bytes unread, or still to come, sends a reset, which destroys the replies before it (RFC
        9112 §9.6).
        """
        try:
            shut_down(self.fd)
        except OSError:
            self.table.close(self.fd)
            return
        self.watch(EPOLLIN)
        self.service.timeouts.await_end(self.fd)

    def close_soon(self) -> None:
        """End the connection after this turn; here, or in the process it has been handed off to by then."""
        self.ending = True
        asyncio.get_running_loop().call_soon(self._close_still_open)

    def _close_still_open(self) -> None:
        if not self.closed:
            self.table.close(self.fd)

    def watch(self, mask: int) -> None:
        """Bring the epoll set to `mask`."""
        if mask == self.mask:
            return
        if not mask:
            self.service.selector.unwatch(self.fd)
        elif self.mask:
            self.service.selector.rewatch(self.fd, mask)
        else:
            self.service.selector.watch(self.fd, mask)
        self.mask = mask
