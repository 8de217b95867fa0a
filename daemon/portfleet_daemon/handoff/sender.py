"""The sending side of a hand-off (docs/handoff.md).

128 connections a message and two messages in flight, with a turn of the loop between messages: clients wait about as
long as two messages take, 1 to 3 ms at worst with 10,000 connections under load. 64 a message take a tenth longer
in all and half as long each; 253 all at once keep clients waiting for 15 ms. What is left per connection are system
calls: EPOLL_CTL_DEL 1.0 µs, the two addresses if they are asked for 2.4, sending 0.2 and closing 0.2 here; receiving
0.5, looking whether it is a connection 0.6 and EPOLL_CTL_ADD 1.4 there (2-core VM). The receiver takes longer, and so
decides.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from portfleet_daemon.commands import HandOff
from portfleet_daemon.connection import Connection
from portfleet_daemon.connections import Connections
from portfleet_daemon.errors import Refused
from portfleet_daemon.handoff.channel import Channel, Held, ReceiverEnded, ReceiverSilent
from portfleet_daemon.handoff.greeting import Agreed, greet
from portfleet_daemon.handoff.wire import (
    BATCH_BYTES,
    VERSIONS,
    Kind,
    Message,
    ProtocolError,
    pack,
    pack_parcels,
)
from portfleet_daemon.listener import Port
from portfleet_daemon.log import log
from portfleet_daemon.sockets import FourTuple, four_tuples

BATCH = 128  # connections
IN_FLIGHT = 2  # messages
REPORT = 384  # connections a progress line that names them, which so stays below 64 KiB
REPORT_INTERVAL = 0.05  # seconds between lines that do not; one costs both of its ends as much as moving 40 connections
BUSY_INTERVAL = 0.005  # seconds between looks at requests in flight


@dataclass(frozen=True, kw_only=True)
class Flight:
    """A message not acknowledged yet: connections' descriptors, those with an object to go on with, or listeners."""

    sequence: int
    plain: list[int] = field(default_factory=list)
    stateful: list[Connection] = field(default_factory=list)
    listeners: tuple[socket.socket, ...] = ()

    def descriptors(self) -> list[int]:
        """Return what goes along, in the order of the records."""
        return [*self.plain, *(one.fd for one in self.stateful), *(one.fileno() for one in self.listeners)]


class Sender:
    """One hand-off. `report` gets the progress answers of docs/control.md."""

    def __init__(
        self,
        command: HandOff,
        *,
        connections: Connections,
        port: Port,
        instance: str,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self._command, self._connections, self._port, self._instance = command, connections, port, instance
        self._report = report
        self._flights: deque[Flight] = deque()
        self._channel: Channel
        self._tuples: list[FourTuple] = []  # of the moved connections that are not reported yet
        self._unreported = 0
        self._report_due = 0.0  # by the loop's clock
        self._kept: set[Connection] = set()  # which cannot be exported
        self._sequence = 0
        self._version = VERSIONS[0]
        self._revoked = False  # the receiver must not take what it has not acknowledged
        self.moved = 0
        self.listeners_moved = False

    async def run(self) -> None:
        """Hand off what the command says; raise Refused with everything unacknowledged served here again."""
        if not self._connections.handler.movable:
            raise Refused("the handler keeps state and has no export_state", hint="drain and evict instead")
        hello = {
            "command": "receive",
            "versions": VERSIONS,
            "framing": self._connections.framing.name,
            "stateful": self._connections.handler.stateful,
            "instance": self._instance,
        }
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            agreed = await greet(sock, self._command.to, hello)
            self._channel = Channel(sock)
            try:
                self._version = agreed.version
                await self._move(agreed)
            finally:
                self._channel.close()
                self._tell()
        finally:
            if self._revoked:
                Held(sock, self._connections.selector)
            else:
                sock.close()

    async def _move(self, agreed: Agreed) -> None:
        try:
            if self._command.listener and self._port.sockets:
                await self._send_listeners()
            await self._send_all(agreed.room)
            await self._send(Kind.END, self._begin())
            await self._acknowledged()
        except Exception as error:  # whatever it is, no connection may be left without a process that serves it
            self._revoked = True
            reason = self._collect_last_acks() or error
            taken_back = self._take_back()
            if not isinstance(error, OSError | ProtocolError | ReceiverEnded | ReceiverSilent):
                raise
            kept = f"; served here again: {taken_back}" if taken_back else ""
            hint = "the rest is served on here"
            if reason is error and isinstance(error, ReceiverSilent):
                hint = f"the receiver hangs: see its log, or end it: kill {agreed.pid}"
            raise Refused(f"hand-off to {self._command.to}: {reason}{kept}", hint=hint) from error

    async def _send_listeners(self) -> None:
        flight = self._begin(listeners=tuple(self._port.sockets))
        for listener in flight.listeners:
            self._port.unwatch(listener)
        await self._send(Kind.LISTENERS, flight)
        await self._acknowledged()
        self.listeners_moved = True

    async def _send_all(self, room: int) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._command.deadline
        left = room if self._command.count is None else min(room, self._command.count)
        while True:
            while left and len(self._flights) < IN_FLIGHT:
                sent = await self._send_batch(left)
                if not sent:
                    break
                left -= sent
            if self._flights:
                await self._acknowledged()
            elif not left or not self._any_to_move() or loop.time() > deadline:
                return
            else:
                await asyncio.sleep(BUSY_INTERVAL)

    async def _send_batch(self, most: int) -> int:
        most = min(BATCH, most)
        plain = self._connections.selector.first_plain(most)
        self._connections.selector.unwatch_plain(plain)
        flight = self._begin(plain=plain)
        parcels, size = self._connections.parcels_of(plain), 0
        for connection in self._connections.movable_stateful(most - len(plain), without=self._kept):
            parcel = self._connections.release(connection)
            if parcel is None:
                self._kept.add(connection)
                continue
            flight.stateful.append(connection)
            parcels.append(parcel)
            size += parcel.size()
            if size > BATCH_BYTES:
                break
        if parcels:
            await self._send(Kind.CONNECTIONS, flight, body=pack_parcels(parcels, version=self._version))
        else:
            self._flights.pop()
        return len(parcels)

    def _any_to_move(self) -> bool:
        return self._connections.count > sum(not one.closed for one in self._kept)

    def _begin(self, *, plain: list[int] | None = None, listeners: tuple[socket.socket, ...] = ()) -> Flight:
        """Return a flight that is taken back if anything fails from here on; `_send` uses up its number."""
        flight = Flight(sequence=self._sequence + 1, plain=plain or [], listeners=listeners)
        self._flights.append(flight)
        return flight

    async def _send(self, kind: Kind, flight: Flight, *, body: bytes = b"") -> None:
        self._sequence = flight.sequence
        descriptors = flight.descriptors()
        message = pack(kind, count=len(descriptors), sequence=flight.sequence, body=body)
        await self._channel.write(message, descriptors)

    async def _acknowledged(self) -> None:
        """Wait for the oldest message's ACK and give up what it carried."""
        self._settle(await self._channel.answer())

    def _settle(self, message: Message) -> None:
        if message.kind is Kind.REFUSE:
            raise ReceiverEnded(f"it refused: {message.body.decode(errors='replace')[:200]}")
        if not self._flights or message.kind is not Kind.ACK or message.sequence != self._flights[0].sequence:
            raise ProtocolError(f"{message.kind.name} {message.sequence} out of order")
        flight = self._flights.popleft()
        for listener in flight.listeners:
            if listener in self._port.sockets:  # SIGTERM may have closed the port meanwhile
                self._port.sockets.remove(listener)
            listener.close()
        if descriptors := flight.descriptors() if not flight.listeners else []:
            if self._command.names:
                self._tuples += four_tuples(descriptors)
            self._connections.forget(descriptors)
            self._connections.moved(flight.stateful)
            self.moved += len(descriptors)
            self._unreported += len(descriptors)
            names, now = self._command.names, asyncio.get_running_loop().time()
            if self._unreported >= REPORT if names else now >= self._report_due:
                self._report_due = now + REPORT_INTERVAL
                self._tell()

    def _tell(self) -> None:
        if self._unreported:
            names = {"connections": self._tuples} if self._command.names else {}
            self._report({"ok": True, "event": "progress", **self.numbers(), **names})
            self._tuples, self._unreported = [], 0

    def _collect_last_acks(self) -> ReceiverEnded | None:
        """Give up what the receiver acknowledged before it was cut off. Return its REFUSE, if there is one."""
        try:
            for message in self._channel.cut():
                self._settle(message)
        except Exception as error:  # noqa: BLE001  what is left is taken back, whatever this was
            log("handoff-end", to=self._command.to, error=error)
            return error if isinstance(error, ReceiverEnded) else None
        return None

    def _take_back(self) -> int:
        taken_back = 0
        for flight in self._flights:
            for listener in flight.listeners:
                if listener in self._port.sockets:
                    self._port.watch(listener)
            self._connections.selector.watch_plain(flight.plain)
            for connection in flight.stateful:
                self._connections.restore(connection)
            taken_back += len(flight.plain) + len(flight.stateful)
        self._flights.clear()
        return taken_back

    def numbers(self) -> dict[str, int]:
        """Return how many connections have moved and how many are here."""
        return {"moved": self.moved, "remaining": self._connections.count}
