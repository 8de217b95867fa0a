"""The sender's end of a hand-off's socket: messages go out, acknowledgements come in, each within a time.

A receiver that hangs may come to life again with complete messages in its socket. So that it cannot take what is served
here by then, the socket's reading side is shut down first: the kernel refuses (EPIPE) whatever it acknowledges later,
and what it acknowledged before can still be read. The socket stays open until the receiver closes its own end, as an
end of file would say that this process is no more and that the connections are the receiver's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Awaitable, Sequence

from portfleet_daemon.handoff.wire import Inbox, Message, ProtocolError
from portfleet_daemon.loop import ServingSelector
from portfleet_daemon.sockets import writable

ACKNOWLEDGE_WITHIN = 5.0  # seconds for the receiver to take in or acknowledge a message


class ReceiverEnded(Exception):
    """The receiver refused or ended; what it did not acknowledge is ours."""


class ReceiverSilent(Exception):
    """The receiver neither acknowledges nor ends."""


class Channel:
    """A connected socket whose other end takes a hand-off."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._inbox = Inbox()
        self._answers: deque[Message] = deque()
        self._broken: Exception | None = None  # why no more will come from the receiver
        self._news: asyncio.Future[None] | None = None
        asyncio.get_running_loop().add_reader(sock, self._arrived)

    def close(self) -> None:
        """Listen to the socket no more; it stays open."""
        asyncio.get_running_loop().remove_reader(self._sock)

    async def write(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Send a message with `descriptors` at its first byte; raise ReceiverSilent or OSError."""
        await _in_time(self._write(message, descriptors))

    async def _write(self, message: bytes, descriptors: Sequence[int]) -> None:
        while True:
            try:
                sent = socket.send_fds(self._sock, [message], descriptors)
                break
            except BlockingIOError:
                await writable(self._sock)
        if sent < len(message):
            await asyncio.get_running_loop().sock_sendall(self._sock, message[sent:])

    async def answer(self) -> Message:
        """Return the receiver's next answer, after a turn of the loop at least, in which other clients are served.

        Raise ReceiverEnded, ReceiverSilent, ProtocolError or OSError.
        """
        if self._answers:
            await asyncio.sleep(0)
        while not self._answers:
            if self._broken is not None:
                raise self._broken
            self._news = asyncio.get_running_loop().create_future()
            await _in_time(self._news)
        return self._answers.popleft()

    def cut(self) -> list[Message]:
        """Refuse all further answers; return those that had come before and were not read."""
        with contextlib.suppress(OSError):  # not connected any more
            self._sock.shutdown(socket.SHUT_RD)
        while self._broken is None and self._arrived():
            pass
        return list(self._answers)

    def _arrived(self) -> bool:
        """Take in what the receiver says; the loop calls this. Return False if there is nothing."""
        try:
            data = self._sock.recv(4096)
            if not data:
                raise ReceiverEnded("it ended before it had acknowledged everything")
            self._answers.extend(self._inbox.feed(data))
        except BlockingIOError:
            return False
        except (OSError, ProtocolError, ReceiverEnded) as error:
            self._broken = error
            self.close()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        return True


class Held:
    """A socket kept open until its other end is closed, which epoll reports (EPOLLHUP) also with an empty mask."""

    after_batch = True

    def __init__(self, sock: socket.socket, selector: ServingSelector) -> None:
        self._sock, self._selector = sock, selector
        selector.objects[sock.fileno()] = self
        selector.watch(sock.fileno(), 0)

    def event(self, mask: int) -> None:  # noqa: ARG002  EPOLLHUP, there is nothing else
        """Close the socket: the other end is closed."""
        del self._selector.objects[self._sock.fileno()]
        self._selector.unwatch(self._sock.fileno())
        self._sock.close()


async def _in_time(step: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(ACKNOWLEDGE_WITHIN):
            await step
    except TimeoutError:
        raise ReceiverSilent(f"it acknowledged nothing for {ACKNOWLEDGE_WITHIN:g} s") from None
