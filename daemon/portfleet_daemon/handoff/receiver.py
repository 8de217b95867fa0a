"""The receiving side of a hand-off (docs/handoff.md)."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import os
import select
import socket
from collections.abc import Callable
from functools import partial

from portfleet_daemon.commands import Receive
from portfleet_daemon.connections import Connections
from portfleet_daemon.control import send
from portfleet_daemon.errors import Refused
from portfleet_daemon.handoff.wire import (
    LONGEST_REASON,
    MOST_DESCRIPTORS,
    VERSIONS,
    Inbox,
    Kind,
    Message,
    Parcel,
    ProtocolError,
    pack,
    unpack_parcels,
)
from portfleet_daemon.listener import Port, adopt_listener, check_listener
from portfleet_daemon.log import log
from portfleet_daemon.sockets import check_connections

READ = 65536  # bytes
FD_SIZE = array.array("i").itemsize
SPACE = socket.CMSG_SPACE(MOST_DESCRIPTORS * FD_SIZE)


class Receiver:
    """Takes connections and listeners that another daemon hands off."""

    def __init__(self, *, connections: Connections, port: Port) -> None:
        self._connections, self._port = connections, port
        self._closing: set[asyncio.Task[None]] = set()

    def agree(self, command: Receive) -> int:
        """Return the version to speak; raise Refused if the two daemons do not fit."""
        framing, stateful = self._connections.framing.name, self._connections.handler.stateful
        common = set(command.versions) & set(VERSIONS)
        if not common:
            raise Refused(
                f"no common version: {list(command.versions)} there, {list(VERSIONS)} here", hint="drain instead"
            )
        if command.framing != framing:
            raise Refused(f"framing is {framing} here, the sender has {command.framing}", hint="drain instead")
        if command.stateful != stateful or not self._connections.handler.movable:
            raise Refused("the handlers' states do not fit", hint="both need export_state and import_state, or neither")
        return max(common)

    async def run(self, command: Receive, sock: socket.socket) -> None:
        """Agree, then take messages until the sender's END or its end."""
        version = self.agree(command)
        await send(sock, {"ok": True, "version": version, "room": self._port.room()})
        intake = Intake(sock, partial(self._take, version=version))
        try:
            await intake.over
        except OSError as error:
            log("handoff-cut", error=error)
        finally:
            intake.close()
            gc.collect()
            gc.freeze()
            log("handoff-received", connections=intake.taken)

    def _take(self, message: Message, sock: socket.socket, *, version: int) -> int:
        """Own what `message` carries from its acknowledgement on; return how many connections that were."""
        parcels: list[Parcel] = []
        try:
            if message.kind is Kind.LISTENERS:
                for fd in message.descriptors:
                    check_listener(fd)
            elif message.kind is Kind.CONNECTIONS:
                if message.count > self._port.room():
                    raise ProtocolError(f"no room: max_connections is {self._port.max_connections} here")
                parcels = unpack_parcels(message.body, message.count, version=version)
                check_connections(message.descriptors)
            elif message.kind is not Kind.END:
                raise ProtocolError(f"{message.kind.name} from a sender")
            _acknowledge(sock, message)
        except (ProtocolError, OSError) as error:
            for fd in message.descriptors:
                os.close(fd)
            raise ProtocolError(str(error)) from error
        if message.kind is Kind.LISTENERS:
            self._empty([adopt_listener(fd) for fd in message.descriptors])
        elif parcels:
            self._connections.adopt(message.descriptors, parcels)
        return len(parcels)

    def _empty(self, listeners: list[socket.socket]) -> None:
        for listener in listeners:
            self._port.adopt(listener)
        task = asyncio.get_running_loop().create_task(self._close_when_quiet(listeners))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_when_quiet(self, listeners: list[socket.socket]) -> None:
        try:
            await self._port.quiet(listeners)
        finally:
            for listener in listeners:
                self._port.discard(listener)


class Intake:
    """One hand-off coming in on `sock`: `take` gets each message and says how many connections it was.

    Messages are taken in where the loop tells of them, one a turn, so that the clients we have are served in between.
    """

    def __init__(self, sock: socket.socket, take: Callable[[Message, socket.socket], int]) -> None:
        self.taken = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sock, self._take = sock, take
        self._inbox = Inbox()
        asyncio.get_running_loop().add_reader(sock, self._arrived)

    def close(self) -> None:
        """Stop taking messages and close the descriptors of an incomplete one."""
        asyncio.get_running_loop().remove_reader(self._sock)
        for fd in self._inbox.leftover():
            os.close(fd)

    def _arrived(self) -> None:
        if self.over.done():
            return
        try:
            data, descriptors = _receive(self._sock)
            if not data:
                log("handoff-cut", taken=self.taken)
                self.over.set_result(None)
            for message in self._inbox.feed(data, descriptors):
                self.taken += self._take(message, self._sock)
                if message.kind is Kind.END:
                    self.over.set_result(None)
                    return
        except BlockingIOError:
            return
        except ProtocolError as error:
            log("handoff-refused", error=error)
            _refuse(self._sock, str(error))
            self.over.set_result(None)
        except Exception as error:  # noqa: BLE001  for `run` to raise, which ends the hand-off; the loop would only log it
            self.over.set_exception(error)


def _receive(sock: socket.socket) -> tuple[bytes, array.array[int]]:
    try:
        data, ancillary, flags, _ = sock.recvmsg(READ, SPACE, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return b"", array.array("i")
    descriptors = array.array("i")
    for level, kind, body in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(body[: len(body) - len(body) % FD_SIZE])
    if flags & socket.MSG_CTRUNC:
        for fd in descriptors:
            os.close(fd)
        raise ProtocolError("descriptors were lost on the way: this process has none left")
    return data, descriptors


def _acknowledge(sock: socket.socket, message: Message) -> None:
    """Write the ACK by which `message` is ours; raise ProtocolError if it is not.

    A sender that has ended left all that came whole to us. One that lives and takes no acknowledgement (EPIPE without
    end of file) has given up on us and serves the connections itself.
    """
    try:
        sock.sendall(pack(Kind.ACK, count=message.count, sequence=message.sequence))
    except BlockingIOError as error:
        raise ProtocolError("the sender does not read its acknowledgements") from error
    except ConnectionError as error:
        if not _ended(sock):
            raise ProtocolError("the sender has taken these connections back") from error


def _ended(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def _refuse(sock: socket.socket, reason: str) -> None:
    with contextlib.suppress(OSError):  # it is gone, or reads nothing: then it takes everything back all the same
        sock.sendall(pack(Kind.REFUSE, count=0, sequence=0, body=reason.encode()[:LONGEST_REASON]))
