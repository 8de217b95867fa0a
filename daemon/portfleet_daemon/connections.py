"""All client connections of this process: by number while plain, as a Connection while stateful."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

from portfleet_daemon.client import Client
from portfleet_daemon.connection import Connection
from portfleet_daemon.framing import Framing
from portfleet_daemon.framing.base import Answered
from portfleet_daemon.handler import Handler
from portfleet_daemon.handoff.wire import LARGEST_PARCEL, NOTHING, Parcel
from portfleet_daemon.log import log
from portfleet_daemon.loop import EPOLLOUT, ServingSelector
from portfleet_daemon.proxy import Greeting
from portfleet_daemon.service import Service
from portfleet_daemon.sockets import close_all
from portfleet_daemon.stats import Stats
from portfleet_daemon.timeouts import Timeouts


class Connections:
    """The table of connections and everything that ends one.

    `request_timeout` (seconds, None for none) runs from the first byte of a request, `idle_timeout` from the last
    event. `proxied`: a proxy in front begins each connection with a header that names the client.
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
        proxied: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.selector, self.framing, self.handler, self.stats = selector, framing, handler, stats
        self.count, self.proxied = 0, proxied
        self._peers: dict[int, bytes] = {}  # of those whose client a proxy has named
        self.on_empty: Callable[[], None] = lambda: None
        self.timeouts = Timeouts(
            selector=selector,
            stats=stats,
            request=request_timeout,
            idle=idle_timeout,
            close=self.close,
            awaits_reply=self.awaits_reply,
            clock=clock,
        )
        self._service = Service(
            selector=selector, framing=framing, handler=handler, stats=stats, timeouts=self.timeouts, clock=clock
        )
        self.escaped = self._service.escaped
        framing.more = stats.answered
        exchange = framing.exchange(handler.respond) if handler.respond else (lambda _: None)
        selector.serve(exchange, self, read_size=self._service.read_size)

    # -- plain connections that need state (loop.Stateful)

    def arrived(self, fd: int, data: bytes) -> None:
        if data:
            self._make_stateful(fd).feed(data)
        else:
            self.close(fd)

    def unsent(self, fd: int, data: bytes, rest: bytes) -> None:
        self.stats.bytes_in += len(data)
        self.stats.in_turn += 1
        connection = self._make_stateful(fd)
        connection.out += rest
        connection.watch(EPOLLOUT)

    def answered(self, fd: int, data: bytes, answer: Any) -> None:
        self.stats.bytes_in += len(data)
        connection = self._make_stateful(fd)
        if isinstance(answer, Answered):
            connection.buffer += data
            connection.take(answer)
        else:
            connection.wait_for(answer)
        connection.advance()

    def raised(self, fd: int, data: bytes, error: BaseException) -> None:
        self.stats.bytes_in += len(data)
        connection = self._make_stateful(fd)
        connection.eof = not data
        connection.failed(error)
        connection.advance()

    def lost(self, fd: int) -> None:
        self.close(fd)

    # -- coming and going

    def accept(self, fd: int) -> None:
        """Serve a new, non-blocking descriptor, behind a proxy once its header has come."""
        self.count += 1
        if self.proxied:
            Greeting(fd, selector=self.selector, greeted=self._greeted, refused=self._refused)
        else:
            self._serve(fd)

    def _greeted(self, fd: int, peer: bytes) -> None:
        if peer:
            self._peers[fd] = peer
        self._serve(fd)

    def _refused(self, fd: int, reason: str) -> None:
        if reason:
            self.stats.errors += 1
            log("proxy-header", error=reason)
        self._end(fd)

    def _serve(self, fd: int) -> None:
        self.selector.watch_plain((fd,))
        if not self.handler.stateful:
            return
        connection = self._make_stateful(fd)
        connection.client = Client(connection)
        try:
            getattr(self.handler.object, "connected", _nothing)(connection.client)
        except BaseException as error:  # noqa: BLE001  whatever a handler raises must hurt only its connection
            self._service.handler_failed(error)
            self.close(fd)

    def adopt(self, descriptors: Sequence[int], parcels: Sequence[Parcel]) -> None:
        """Serve descriptors handed off by another process, going on exactly where that one stopped."""
        self.count += len(descriptors)
        both = zip(descriptors, parcels, strict=True)
        told = list(both) if self.handler.stateful else [one for one in both if one[1] is not NOTHING]
        self._peers |= {fd: parcel.peer for fd, parcel in told if parcel.peer}
        stateful = {fd: parcel for fd, parcel in told if self.handler.stateful or not parcel.bare}
        self.selector.watch_plain([fd for fd in descriptors if fd not in stateful])
        for fd, parcel in stateful.items():
            self._adopt_stateful(fd, parcel)

    def _adopt_stateful(self, fd: int, parcel: Parcel) -> None:
        if self.selector.age is not None:
            self.selector.age[fd] = 1
        connection = self._make_stateful(fd)
        connection.mask = 0
        connection.buffer += parcel.partial
        connection.out += parcel.unsent
        connection.ending = parcel.eof and not parcel.partial  # the peer's end or the sender's: all is answered
        connection.eof = parcel.eof and not connection.ending
        if self.handler.stateful:
            connection.client = Client(connection)
            try:
                self.handler.object.import_state(connection.client, parcel.state or b"")
            except BaseException as error:  # noqa: BLE001  as above
                self._service.handler_failed(error)
                self.close(fd)
                return
        connection.advance()

    def parcels_of(self, plain: Sequence[int]) -> list[Parcel]:
        """Return what goes along with plain connections."""
        if not self._peers:
            return [NOTHING] * len(plain)
        return [Parcel(peer=self._peers[fd]) if fd in self._peers else NOTHING for fd in plain]

    def movable_stateful(self, most: int, *, without: Container[Connection] = ()) -> list[Connection]:
        """Return up to `most` stateful connections that can be released now: no reply is awaited."""
        return [one for one in self.stateful() if one.task is None and one not in without][:most]

    def release(self, connection: Connection) -> Parcel | None:
        """Stop serving a movable connection; it stays open and counted until `forget` or `restore`.

        Plain ones are released by the selector's `unwatch_plain`. Return None if its handler cannot
        export its state, or a message cannot hold it; it is then served on.
        """
        state = None
        if connection.client is not None:
            try:
                state = self.handler.object.export_state(connection.client)
                if type(state) is not bytes:
                    raise TypeError(f"export_state returned {type(state).__name__}, not bytes")
            except BaseException as error:  # noqa: BLE001  as above
                self._service.handler_failed(error)
                return None
        partial = b"" if connection.ending else bytes(connection.buffer)
        eof = connection.eof or connection.ending
        parcel = Parcel(partial, bytes(connection.out), state, eof, connection.peer)
        if parcel.size() > LARGEST_PARCEL:
            return None
        connection.watch(0)
        connection.closed = True
        if connection.client is not None:
            connection.client.wake()
        self._unlist(connection.fd)
        return parcel

    def forget(self, descriptors: Sequence[int]) -> None:
        """Close our copies of released descriptors: they are another process's now."""
        for fd in descriptors if self._peers else ():
            self._peers.pop(fd, None)
        close_all(descriptors)
        self._less(len(descriptors))

    def moved(self, connections: Sequence[Connection]) -> None:
        """Tell the handler of connections that are another process's for good."""
        for connection in connections:
            if connection.client is not None:
                self._tell("moved", connection.client)

    def _tell(self, event: str, client: Client) -> None:
        """Call a method that a handler class may have."""
        try:
            getattr(self.handler.object, event, _nothing)(client)
        except BaseException as error:  # noqa: BLE001  whatever a handler raises must hurt only its connection
            self._service.handler_failed(error)

    def restore(self, connection: Connection) -> None:
        """Serve a released connection again; plain ones go back by the selector's `watch_plain`."""
        if self.selector.age is not None:
            self.selector.age[connection.fd] = 1
        connection.closed = False
        connection.since = None  # its time-out starts afresh, so that the oldest stays first
        self.selector.objects[connection.fd] = connection
        connection.advance()

    def close(self, fd: int) -> None:
        """End a connection, never one whose event is still to come in this turn (Connection.close_soon)."""
        connection = self.selector.objects.get(fd)
        if isinstance(connection, Greeting):
            connection.stop()
            self._end(fd)
            return
        if not isinstance(connection, Connection):
            self.selector.unwatch(fd)
            self._unlist(fd)
            self._end(fd)
            return
        connection.watch(0)
        connection.closed = True
        self._unlist(fd)
        self._end(fd)
        if connection.task is not None:
            connection.task.cancel()
        if connection.client is not None:
            connection.client.wake()
            self._tell("disconnected", connection.client)

    def _unlist(self, fd: int) -> None:
        self.selector.plain[fd] = 0
        self.selector.objects.pop(fd, None)
        self.timeouts.request_over(fd)
        if self.selector.age is not None:
            self.selector.age[fd] = 0

    def _end(self, fd: int) -> None:
        self._peers.pop(fd, None)
        os.close(fd)
        self._less(1)

    def _less(self, number: int) -> None:
        self.count -= number
        if not self.count:
            self.on_empty()

    # -- looking through them

    def awaits_reply(self, fd: int) -> bool:
        """Return whether the handler is still at a request of `fd`."""
        connection = self.selector.objects.get(fd)
        return isinstance(connection, Connection) and connection.task is not None

    def stateful(self) -> list[Connection]:
        """Return all connections that are stateful now."""
        return [one for one in self.selector.objects.values() if isinstance(one, Connection)]

    def descriptors(self) -> Iterator[int]:
        """Yield all descriptors, plain ones first; the table must not change meanwhile."""
        fd = -1
        while (fd := self.selector.plain_after(fd)) >= 0:
            yield fd
        yield from [fd for fd, one in self.selector.objects.items() if isinstance(one, Connection | Greeting)]

    def _make_stateful(self, fd: int) -> Connection:
        connection = Connection(fd, service=self._service, table=self, peer=self._peers.get(fd, b""))
        self.selector.plain[fd] = 0
        self.selector.objects[fd] = connection
        return connection

    def make_plain(self, connection: Connection) -> None:
        """Drop a connection's object: it is at a request boundary with nothing unsent."""
        del self.selector.objects[connection.fd]
        self.selector.plain[connection.fd] = 1


def _nothing(*_: object) -> None:
    """Do what a handler class without `connected` or `disconnected` does."""
