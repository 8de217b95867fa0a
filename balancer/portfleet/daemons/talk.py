"""Carries out exchanges over sockets: a step at a time for the watcher, or some side by side until all have ended."""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from portfleet.daemons.answers import LONGEST, ControlError
from portfleet.daemons.exchange import Command, Control, Exchange, Port, Verdict
from portfleet.linux import processes, unix_socket
from portfleet.linux.listening import LOOPBACK
from portfleet.linux.sockdiag import Ends

if TYPE_CHECKING:
    from portfleet.daemons.run import Run

#: struct linger of socket(7): on, for 0 seconds; then close(2) sends a reset.
_RESET = struct.pack("=ii", 1, 0)
_CONNECTED = (0, errno.EISCONN)
_UNDER_WAY = (errno.EINPROGRESS, errno.EALREADY)


def dial(place: Control) -> socket.socket:
    """Return a non-blocking connection to a control socket, made sure of whose it is.

    Raises OSError, and ControlError if a process has it that is none of the instance's.
    """
    connection = unix_socket.connect(place.path)
    peer = unix_socket.peer(connection)
    if place.pid is None or processes.within(peer, place.pid):
        return connection
    connection.close()
    raise ControlError(f"{place}: process {peer} has it, which is none of the instance's (process {place.pid})")


#: What a talk is doing.
_CONNECTING, _SENDING, _READING = range(3)


class Talk:
    """One exchange and its connection. Nothing here ever waits; of an answer, however long, 64 KiB are read."""

    def __init__(self, exchange: Exchange, connection: socket.socket | None = None, came: bytes | None = None) -> None:
        """``connection``: one to the same place that an earlier talk has left open (`leave`).

        ``came``: the begin of the answer, if the request has been sent over that connection already.
        """
        self.exchange = exchange
        self._connection = connection
        self._phase = _CONNECTING if connection is None else _SENDING if came is None else _READING
        self._came = came
        place = exchange.place
        opening = place.opening if isinstance(place, Port) and connection is None else b""
        self._unsent, self._room = opening + exchange.request, LONGEST

    def step(self) -> Verdict:
        """Go on as far as is possible now; None if it has to go on later."""
        try:
            return self._step()
        except BlockingIOError:
            return None
        except OSError as error:
            return self.exchange.unreachable(error.errno or errno.EINVAL)

    def leave(self) -> socket.socket | None:
        """Return the connection, which is the caller's from now on."""
        connection, self._connection = self._connection, None
        return connection

    def close(self) -> None:
        """End the connection, if there is one; a port's by a reset, or conntrack would have it for two minutes more."""
        if self._connection is not None:
            if isinstance(self.exchange.place, Port):
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._connection.close()

    @property
    def ends(self) -> Ends | None:
        """Return the ends of a connection to a port over loopback, which conntrack has; None if there is none."""
        place = self.exchange.place
        if self._connection is None or not isinstance(place, Port) or (address := LOOPBACK.get(place.host)) is None:
            return None
        own = int(self._connection.getsockname()[1])
        return Ends(address, own, address, place.port) if own else None

    def awaited(self) -> tuple[int, int]:
        """Return the descriptor and the events of poll(2) after which the next step is of use; -1 before the first."""
        descriptor = self._connection.fileno() if self._connection is not None else -1
        return descriptor, select.POLLIN if self._phase == _READING else select.POLLOUT

    def _step(self) -> Verdict:
        place = self.exchange.place
        if self._connection is None:
            if isinstance(place, Control):
                return self._dial(place)
            family = socket.AF_INET6 if isinstance(place, Port) and ":" in place.host else socket.AF_INET
            self._connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if self._phase == _CONNECTING and isinstance(place, Port):
            return self._connect(self._connection, place)
        return self._send(self._connection) if self._phase == _SENDING else self._read(self._connection)

    def _dial(self, place: Control) -> Verdict:
        try:
            connection = self._connection = dial(place)
        except BlockingIOError:  # its queue is full: no connection is under way
            return self.exchange.unreachable(errno.EAGAIN)
        except ControlError as error:
            return str(error)
        return self._begin(connection)

    def _connect(self, connection: socket.socket, place: Port) -> Verdict:
        address = (place.host, place.port)
        code = connection.connect_ex(address)
        if code in _UNDER_WAY:
            # Over loopback the handshake is over when the first call returns, so that the second tells at once.
            code = connection.connect_ex(address)
        if code in _UNDER_WAY:
            return None
        return self._begin(connection) if code in _CONNECTED else self.exchange.unreachable(code)

    def _begin(self, connection: socket.socket) -> Verdict:
        self._phase = _SENDING
        verdict = self.exchange.connected()
        return self._send(connection) if verdict is None else verdict

    def _send(self, connection: socket.socket) -> Verdict:
        if self._unsent:
            self._unsent = self._unsent[connection.send(self._unsent) :]
        if self._unsent:
            return None
        self._phase = _READING
        if self.exchange.ends:
            connection.shutdown(socket.SHUT_WR)
        return self.exchange.sent()  # no more: an answer is never there at once, looking would cost an exception

    def _read(self, connection: socket.socket) -> Verdict:
        data, self._came = self._came or connection.recv(LONGEST), None
        self._room -= len(data)
        if self._room < 0:
            return f"{self.exchange.place}: sends more than {LONGEST:,} bytes"
        return self.exchange.received(data)


def begin(exchange: Exchange, connection: socket.socket | None = None) -> Talk | Run:
    """Return what carries out ``exchange``; ``connection`` as `Talk` takes it."""
    place = exchange.place
    if not isinstance(place, Command):
        return Talk(exchange, connection)
    from portfleet.daemons.run import Run  # it brings subprocess, for probes that most services do not have

    return Run(exchange, place)


def carry_out(
    exchanges: Sequence[tuple[Exchange, float]],
    *,
    clock: Callable[[], float] = time.monotonic,
    ended: list[Ends] | None = None,
) -> list[str]:
    """Carry out exchanges side by side, each within its seconds from now; return how each ended, "" for well.

    The deadline is one for all of an exchange: no byte that comes extends it. The ends of connections over loopback are
    added to ``ended``.
    """
    began, found = clock(), [""] * len(exchanges)
    talks = {number: begin(exchange) for number, (exchange, _) in enumerate(exchanges)}
    deadlines = {number: began + seconds for number, (_, seconds) in enumerate(exchanges)}
    ready = list(talks)
    while talks:
        verdicts = {number: talks[number].step() for number in ready}
        now = clock()
        verdicts |= {
            number: exchanges[number][0].late(exchanges[number][1])
            for number in talks
            if now >= deadlines[number] and verdicts.get(number) is None
        }
        for number, verdict in verdicts.items():
            if verdict is not None:
                found[number] = verdict
                talk = talks.pop(number)
                if ended is not None and isinstance(talk, Talk) and (ends := talk.ends) is not None:
                    ended.append(ends)
                talk.close()
        if talks:
            ready = _ready(talks, seconds=min(deadlines[number] for number in talks) - clock())
    return found


def _ready(talks: Mapping[int, Talk | Run], *, seconds: float) -> list[int]:
    """Wait until some of ``talks`` can go on, or for ``seconds``; return those that can."""
    poll, numbers = select.poll(), dict[int, int]()
    for number, talk in talks.items():
        descriptor, events = talk.awaited()
        poll.register(descriptor, events)
        numbers[descriptor] = number
    return [numbers[descriptor] for descriptor, _ in poll.poll(max(0.0, seconds) * 1000)]
