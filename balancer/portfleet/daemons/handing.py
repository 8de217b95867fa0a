"""One end of a hand-off's socket (docs/handoff.md) held by this process, which blocks: as receiver, or as sender.

The other end is an instance, whose word is a claim: lines are read by `answers`, messages by `parcels`, and each has
one deadline, that no byte extends.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from portfleet.core.printable import printable
from portfleet.daemons.answers import LONGEST, Agreed, ControlError, read_agreed
from portfleet.daemons.exchange import Control
from portfleet.daemons.parcels import ACK, CONNECTIONS, END, MOST, REFUSE, Improper, Inbox, Message, pack, records
from portfleet.daemons.talk import dial

T = TypeVar("T")

_SPACE = socket.CMSG_SPACE(MOST * array.array("i").itemsize)
#: Seconds for a daemon's answer: it gives up a hand-off itself after five.
PATIENCE = 6.0


class HandingFailed(Exception):
    """A daemon refused, ended or fell silent; the text says which."""


class Handing:
    """A connected socket of a hand-off; ``close`` closes what came and was not taken."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.sock, self._inbox, self._line = sock, Inbox(), b""
        self._descriptors: list[int] = []

    @classmethod
    def to(cls, place: Control, hello: Mapping[str, Any]) -> Handing:
        """Return the sender's end of a hand-off to the daemon at ``place``, agreed by ``hello``. Raises HandingFailed.

        ``agreed`` of the result is the daemon's answer.
        """
        try:
            found = cls(dial(place))
        except ControlError as error:
            raise HandingFailed(str(error)) from None
        try:
            found.say(hello)
            found.agreed = found.hear(read_agreed)
        except BaseException:  # also a cancellation or Ctrl-C: the daemon frees its end when ours is closed
            found.close()
            raise
        return found

    agreed = Agreed(0, 0)

    def say(self, line: Mapping[str, Any]) -> None:
        """Send one line of JSON."""
        self.sock.sendall(json.dumps(line).encode() + b"\n")

    def hear(self, read: Callable[[bytes], T]) -> T:
        """Return the line with which a hand-off is opened, as ``read`` of `answers` has it. Raises HandingFailed."""
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._line:
            data = self._receive(deadline)
            if not data or len(self._line) > LONGEST:
                raise HandingFailed("the daemon sends a line without end" if data else "the daemon has ended it")
            self._line += data
        line, _, rest = self._line.partition(b"\n")
        self._inbox.feed(rest)
        try:
            return read(line)
        except ControlError as error:
            raise HandingFailed(str(error)) from None

    def fileno(self) -> int:
        """Return what is readable when a message comes."""
        return self.sock.fileno()

    def read(self) -> tuple[Message, list[int]] | None:
        """Return the next message and its descriptors, now the caller's; None at the end. Raises HandingFailed."""
        deadline = time.monotonic() + PATIENCE
        while (message := self._take()) is None:
            data = self._receive(deadline)
            if not data:
                return None
            self._inbox.feed(data)
        carried = message.count if message.kind == CONNECTIONS else 0
        if carried > len(self._descriptors):
            raise HandingFailed("descriptors were lost on the way")
        taken, self._descriptors = self._descriptors[:carried], self._descriptors[carried:]
        return message, taken

    def acknowledge(self, message: Message) -> None:
        """Take over what ``message`` brought."""
        self.sock.sendall(pack(ACK, count=message.count, sequence=message.sequence))

    def refuse(self, message: Message, why: str) -> None:
        """Leave what ``message`` brought with its sender."""
        self.sock.sendall(pack(REFUSE, sequence=message.sequence, body=why.encode()[:4000]))

    def pass_on(self, descriptors: Sequence[int], body: bytes) -> None:
        """Give connections to the daemon, which has them when this returns. Raises HandingFailed."""
        message = pack(CONNECTIONS, count=len(descriptors), sequence=1, body=body)
        sent = socket.send_fds(self.sock, [message], list(descriptors))
        self.sock.sendall(message[sent:])
        answer = self.read()
        if answer is None or answer[0].kind != ACK:
            why = printable(answer[0].body.decode(errors="replace")) if answer else "it ended"
            raise HandingFailed(f"the daemon did not take them: {why}")

    def end(self) -> None:
        """Say that nothing more follows, as a sender does, and close."""
        try:
            self.sock.sendall(pack(END, sequence=2))
            self.read()
        except (OSError, HandingFailed):
            pass  # what was passed on is acknowledged
        self.close()

    def close(self) -> None:
        """Close the socket, and descriptors that no message has claimed."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
        self.sock.close()

    def _take(self) -> Message | None:
        try:
            message = self._inbox.take()
            if message is not None and message.kind == CONNECTIONS:
                records(message.body, message.count)
        except Improper as error:
            raise HandingFailed(f"the daemon sends {error}") from None
        return message

    def _receive(self, deadline: float) -> bytes:
        if not select.select([self.sock], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise HandingFailed(f"no word from the daemon within {PATIENCE:g} s")
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(1 << 16, _SPACE, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise HandingFailed(f"no word from the daemon: {error.strerror or error}") from None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
                self._descriptors.extend(found)
        if flags & socket.MSG_CTRUNC:
            raise HandingFailed("descriptors were lost on the way")
        if len(self._descriptors) > 2 * MOST:
            raise HandingFailed("the daemon sends more descriptors than connections")
        return data
