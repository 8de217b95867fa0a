"""Active probes of many instances at little cost: no probe ever blocks, none is a task of its own.

A tick begins the probes that are due and looks at those under way; sockets are non-blocking and polled by their own
system calls (recv, SO_ERROR through connect), so that a probe costs no registration anywhere.

Our daemon is asked by its control socket, over a connection that is kept, *and* through its port: a hung loop still
completes connects in the kernel's backlog, and only an answer of the loop itself tells the two apart. The request
through the port is an empty one: connect, end of input, and the daemon must close its side too. So the listener and
the loop's way from accept to close are proven without a word that a handler would have to understand. A daemon that is
full by its own ``max_connections`` leaves connections in the backlog on purpose; then the control socket's word counts.
"""

from __future__ import annotations

import errno
import heapq
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from portfleet.core.model import Probe

_STATUS = b'{"command": "status"}\n'
#: What a probe needs of a status line; parsing all of it (1.3 kB) would double what a probe costs.
_STATE = re.compile(rb'"state": ?"([a-z]+)"')
_CONNECTIONS, _LIMIT = re.compile(rb'"connections": ?(\d+)'), re.compile(rb'"max_connections": ?(\d+)')
_CONNECTED = (0, errno.EISCONN)
_UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY)
#: Seconds between two looks at probes under way. Coarser costs less and delays a verdict by as much.
_STEP = 0.01
#: The longest wait of a tick that has nothing to do, so that new targets are never far away.
_IDLE = 0.1


@dataclass(frozen=True)
class Target:
    """What to probe: the instance's address, its control socket (None: it has none) and how."""

    name: str
    host: str
    port: int
    control: str | None
    probe: Probe


@dataclass
class Asking:
    """A probe under way: the parts still to be answered, as iterators that yield until they are."""

    target: Target
    deadline: float
    parts: list[Iterator[None]] = field(default_factory=list)


class _Failed(Exception):
    """A part of a probe failed; the text says how."""


class Prober:
    """Probes ``targets`` in turn and calls ``result(name, trouble)`` for each probe ("" is a success).

    ``unexpected`` is told of an exception that no probe should raise, which fails that one probe.
    """

    def __init__(
        self,
        result: Callable[[str, str], None],
        clock: Callable[[], float],
        unexpected: Callable[[str, Exception], None] = lambda *_: None,
    ) -> None:
        self._result, self._clock, self._unexpected = result, clock, unexpected
        self._targets: dict[str, Target] = {}
        self._queue: list[tuple[float, str]] = []
        self._queued: set[str] = set()
        self._asking: dict[str, Asking] = {}
        self._control: dict[str, socket.socket] = {}
        self._full: set[str] = set()
        #: By instance: how many connections it has and how many it takes, as our daemon told last.
        self.connections: dict[str, tuple[int, int]] = {}

    def aim(self, targets: Iterable[Target]) -> None:
        """Probe exactly ``targets`` from now on; new ones are spread over their interval."""
        wanted = {target.name: target for target in targets}
        for name in self._targets.keys() - wanted.keys():
            self._drop(name)
        now, fresh = self._clock(), [name for name in wanted if name not in self._queued]
        for number, name in enumerate(fresh):
            heapq.heappush(self._queue, (now + wanted[name].probe.interval * number / len(fresh), name))
        self._queued.update(fresh)
        self._targets = wanted

    def ask(self, name: str) -> None:
        """Probe one of the targets now, besides its turns."""
        if name in self._targets and name not in self._asking:
            self._asking[name] = self._begin(self._targets[name], self._clock())

    def tick(self) -> float:
        """Begin what is due and look at what is under way; gives the seconds until the next tick is of use."""
        now = self._clock()
        while self._queue and self._queue[0][0] <= now:
            due, name = heapq.heappop(self._queue)
            target = self._targets.get(name)
            if target is None:
                self._queued.discard(name)
                continue
            # Late ticks are not made up for: probing is per interval, not per catch-up.
            heapq.heappush(self._queue, (max(due + target.probe.interval, now + target.probe.interval / 2), name))
            if name not in self._asking:
                self._asking[name] = self._begin(target, now)
        for name, asking in list(self._asking.items()):
            if self._asking.get(name) is asking:  # a result may have dropped others
                self._advance(name, asking, now)
        if self._asking or not self._queue:
            return _STEP if self._asking else _IDLE
        return min(_IDLE, max(_STEP, self._queue[0][0] - now))

    def _begin(self, target: Target, now: float) -> Asking:
        asking = Asking(target, now + target.probe.timeout)
        full = target.name in self._full
        self._full.discard(target.name)
        if target.control is not None:
            asking.parts.append(self._ask_control(target))
        if target.control is None or target.probe.send is not None:
            asking.parts.append(_ask_port(target))
        elif not full:
            asking.parts.append(_ask_nothing(target))
        return asking

    def _advance(self, name: str, asking: Asking, now: float) -> None:
        try:
            asking.parts = [part for part in asking.parts if next(part, self) is None]
        except (_Failed, OSError) as error:
            self._end(name, asking, str(error))
            return
        except Exception as error:  # noqa: BLE001 (a defect costs one instance's probe, never those of the others)
            self._unexpected(name, error)
            self._end(name, asking, f"its probe failed unexpectedly: {error!r}")
            return
        if not asking.parts:
            self._end(name, asking, "")
        elif now >= asking.deadline:
            late = f"no answer within {asking.target.probe.timeout * 1000:.0f} ms"
            self._end(name, asking, "" if name in self._full else late)

    def _end(self, name: str, asking: Asking, trouble: str) -> None:
        self._close(asking)
        del self._asking[name]
        if trouble:
            self._hang_up(name)
        self._result(name, trouble)

    def _drop(self, name: str) -> None:
        asking = self._asking.pop(name, None)
        if asking is not None:
            self._close(asking)
        self._hang_up(name)
        self._full.discard(name)
        self.connections.pop(name, None)

    def _close(self, asking: Asking) -> None:
        for part in asking.parts:
            part.close()  # type: ignore[attr-defined] # they are generators; closing closes their sockets

    def _hang_up(self, name: str) -> None:
        connection = self._control.pop(name, None)
        if connection is not None:
            connection.close()

    def _ask_control(self, target: Target) -> Iterator[None]:
        connection = self._control.get(target.name)
        if connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._control[target.name] = connection
            if code := connection.connect_ex(str(target.control)):
                raise _Failed(f"control socket: {errno.errorcode.get(code, code)}")
        connection.send(_STATUS)
        yield None  # an answer is never there at once: looking would cost a call and an exception
        got = b""
        while not got.endswith(b"\n"):
            try:
                part = connection.recv(65536)
            except BlockingIOError:
                yield None
                continue
            if not part:
                raise _Failed("control socket: closed")
            got += part
        state = _STATE.search(got)
        if state is None or state[1] != b"ready":
            raise _Failed(f"it says it is {state[1].decode() if state else repr(got[:80])}")
        if (limit := _LIMIT.search(got)) and (now := _CONNECTIONS.search(got)):
            has, most = self.connections[target.name] = int(now[1]), int(limit[1])
            if has >= most > 0:
                self._full.add(target.name)


def _connect(connection: socket.socket, target: Target) -> Iterator[None]:
    address = (target.host, target.port)
    code = connection.connect_ex(address)
    if code in _UNDER_WAY:
        # Over loopback the handshake is over when the first call returns, so that the second tells at once.
        while (code := connection.connect_ex(address)) in _UNDER_WAY:
            yield None
    if code not in _CONNECTED:
        raise _Failed(f"connect to port {target.port}: {errno.errorcode.get(code, code)}")


def _socket(target: Target) -> socket.socket:
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _ask_port(target: Target) -> Iterator[None]:
    """Connect, send and expect as configured."""
    with _socket(target) as connection:
        yield from _connect(connection, target)
        if target.probe.send is None:
            return
        connection.send(target.probe.send.encode())
        if target.probe.expect is None:
            return
        yield None
        got, expected = b"", target.probe.expect.encode()
        while expected not in got:
            try:
                part = connection.recv(4096)
            except BlockingIOError:
                yield None
                continue
            got += part
            if not part or len(got) > 65536:
                raise _Failed(f"answered {got[:80]!r}, expected {expected!r}")


def _ask_nothing(target: Target) -> Iterator[None]:
    """Connect and end the input; the daemon's loop closes the connection."""
    with _socket(target) as connection:
        yield from _connect(connection, target)
        connection.shutdown(socket.SHUT_WR)
        yield None
        while True:
            try:
                if not connection.recv(4096):
                    return
            except BlockingIOError:
                yield None
