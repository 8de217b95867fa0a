"""The listening sockets: opened, accepted from a few at a time, paused when descriptors run out, handed over, closed.

Options are set on the listener, so that accepted sockets inherit them and an accept costs no further call:
TCP_NODELAY (without it replies stall 42 ms against a delayed ACK), bounded buffers (without a bound the kernel held
8.5 MB for one client that did not read), keepalive well below conntrack's shortest usual memory of an idle connection
(nf_conntrack_tcp_timeout_established is 5 days by default, but 1 hour is a common setting). SO_REUSEADDR lets the
port be bound again while a successor process holds established connections of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

from portfleet_daemon.connections import Connections
from portfleet_daemon.errors import ListenError
from portfleet_daemon.log import log
from portfleet_daemon.loop import EPOLLIN, ServingSelector
from portfleet_daemon.quiesce_listener import quiesce, unquiesce
from portfleet_daemon.sockdiag import accept_queue, handshakes

ACCEPTS = 8  # per turn: p99 of the others in a connect storm 389 µs, with 64 it was 3,310 µs
BUFFER = 65536  # bytes; the kernel doubles it for its own bookkeeping
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES = 300, 30, 4  # seconds, seconds, number
PAUSE = 0.05  # seconds without accepting when there is no room
QUIET_INTERVAL, QUIET_LIMIT = 0.2, 3.0  # seconds: empty twice this far apart, at most so long
LAST_INTERVAL = 0.005  # seconds between looks once new handshakes are ignored
EVERYWHERE = ("0.0.0.0", "::")  # connections arrive at the address that was dialled


class Listener:
    """One listening socket in the set; the selector calls it after the batch."""

    after_batch = True

    def __init__(self, sock: socket.socket, port: Port) -> None:
        self.sock = sock
        self._port = port

    def event(self, mask: int) -> None:  # noqa: ARG002  whatever it says, accept() tells
        self._port.accept_from(self.sock)


class Port:
    """The port of this daemon: a socket per address, and those that another process handed over."""

    def __init__(
        self,
        *,
        hosts: tuple[str, ...],
        port: int,
        backlog: int,
        max_connections: int,
        selector: ServingSelector,
        connections: Connections,
    ) -> None:
        self.hosts, self.number, self.backlog, self.max_connections = hosts, port, backlog, max_connections
        self.sockets: list[socket.socket] = []
        self._selector, self._connections = selector, connections
        self._resume: asyncio.TimerHandle | None = None
        self._quiesced: set[socket.socket] = set()  # what is accepted from these may have inherited it

    def open(self) -> None:
        """Bind and listen, and begin to accept; raise ListenError, leaving nothing open."""
        try:
            for family, address in self._addresses():
                self._listen(family, address)
        except OSError as error:
            where = f"port {self.number}"
            self.close()
            if error.errno == errno.EADDRINUSE:
                hint = f"find the process: ss -ltnp 'sport = :{self.number}'"
                raise ListenError(f"{where} is taken by another process", hint=hint) from error
            raise ListenError(f"cannot listen on {where}: {error}", hint="see --host and --port") from error
        if not self.sockets:
            raise ListenError(f"cannot listen on port {self.number}: no address family", hint="see --host")
        for sock in self.sockets:
            self.watch(sock)

    def _addresses(self) -> list[tuple[int, str]]:
        flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
        found = []
        for host in self.hosts or EVERYWHERE:
            for family, _, _, _, address in socket.getaddrinfo(host, "0", type=socket.SOCK_STREAM, flags=flags):
                found.append((int(family), str(address[0])))
        return found

    def _listen(self, family: int, address: str) -> None:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT and not self.hosts:
                log("no-family", family=socket.AddressFamily(family).name)
                return
            raise
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
            sock.bind((address, self.number))
            sock.listen(self.backlog)
        except OSError as error:
            sock.close()
            if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL and not self.hosts:
                log("no-family", family="AF_INET6")  # net.ipv6.conf.all.disable_ipv6=1
                return
            raise
        self.number = sock.getsockname()[1]
        self.sockets.append(sock)

    def watch(self, sock: socket.socket) -> None:
        """Accept from `sock`."""
        self._selector.objects[sock.fileno()] = Listener(sock, self)
        if self._resume is None:
            self._selector.watch(sock.fileno(), EPOLLIN)

    def unwatch(self, sock: socket.socket) -> None:
        """Accept no more from `sock`; it stays open and in the kernel's table."""
        if self._selector.objects.pop(sock.fileno(), None) and self._resume is None:
            self._selector.unwatch(sock.fileno())

    def close(self) -> None:
        """Close the port's own sockets; what still waits in their queues is reset."""
        while self.sockets:
            self.discard(self.sockets.pop())

    def discard(self, sock: socket.socket) -> None:
        """Stop accepting from `sock` and close it."""
        self.unwatch(sock)
        self._quiesced.discard(sock)
        sock.close()

    def adopt(self, sock: socket.socket) -> None:
        """Accept from a listener of another process, which may quiesce it at any time until it closes its own."""
        self._quiesced.add(sock)
        self.watch(sock)

    def room(self) -> int:
        """Return how many more connections this process takes."""
        return max(0, self.max_connections - self._connections.count)

    def accept_from(self, sock: socket.socket) -> None:
        """Accept a few connections, or pause when there is no room or no descriptor for more."""
        for _ in range(min(ACCEPTS, self.room())):
            try:
                client, _ = sock.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # gone while it waited
            except OSError as error:
                log("accept-paused", error=error, connections=self._connections.count)
                self._pause()
                return
            client.setblocking(False)
            if sock in self._quiesced:
                unquiesce(client)
            self._connections.stats.accepted += 1
            self._connections.accept(client.detach())
        if not self.room():
            self._pause()

    def _listeners(self) -> list[int]:
        return [fd for fd, target in self._selector.objects.items() if isinstance(target, Listener)]

    def _pause(self) -> None:
        """Take the listeners out of the set for a while: level-triggered, they would spin the loop."""
        if self._resume is None:
            for fd in self._listeners():
                self._selector.unwatch(fd)
            self._resume = asyncio.get_running_loop().call_later(PAUSE, self._unpause)

    def _unpause(self) -> None:
        self._resume = None
        for fd in self._listeners():
            self._selector.watch(fd, EPOLLIN)

    async def quiet(self, sockets: list[socket.socket]) -> None:
        """Return when `sockets` can be closed without resetting a client that believes it is connected.

        That is when nothing has waited to be accepted twice 200 ms apart, or after 3 s, and then, with new handshakes
        ignored, what is still on its way has been accepted too. If it is cancelled, the sockets go on as before.
        """
        loop = asyncio.get_running_loop()
        limit = loop.time() + QUIET_LIMIT
        empty = 0
        while empty < 2 and loop.time() < limit:
            empty = 0 if any(map(_waiting, sockets)) else empty + 1
            if empty < 2:
                await asyncio.sleep(QUIET_INTERVAL)
        try:
            self._quiesce(sockets)
            while any(map(_waiting, sockets)) and loop.time() < limit + QUIET_INTERVAL:
                await asyncio.sleep(LAST_INTERVAL)
        except asyncio.CancelledError:
            for sock in sockets:
                unquiesce(sock)
            raise

    def _quiesce(self, sockets: list[socket.socket]) -> None:
        self._quiesced.update(sockets)
        for sock in sockets:
            try:
                quiesce(sock)
            except (
                OSError
            ) as error:  # a client that connects in the last moment is reset, which is better than never to end
                log("not-quiesced", error=error)


def _waiting(sock: socket.socket) -> bool:
    if accept_queue(sock):
        return True
    with contextlib.suppress(OSError):  # a kernel without inet_diag: the accept queue has to do
        return handshakes(sock.getsockname()[1]) > 0
    return False


def check_listener(fd: int) -> None:
    """Raise OSError unless `fd`, received from another process, is a listening TCP socket."""
    sock = socket.socket(fileno=fd)
    try:
        if sock.proto != socket.IPPROTO_TCP or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(errno.EINVAL, "no listening TCP socket")
    finally:
        sock.detach()


def adopt_listener(fd: int) -> socket.socket:
    """Return the socket of a checked listener that was received from another process."""
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    unquiesce(sock)
    return sock
