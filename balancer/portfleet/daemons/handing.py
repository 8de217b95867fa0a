"""One end of a hand-off's socket (docs/handoff.md) held by this process, which blocks: as receiver, or as sender."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from portfleet.daemons.exchange import Control
from portfleet.daemons.parcels import ACK, CONNECTIONS, END, MOST, REFUSE, Improper, Inbox, Message, pack
from portfleet.daemons.talk import dial

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
        found = cls(dial(place))
        found.say(hello)
        found.agreed = found.hear()
        if found.agreed.get("ok") is not True:
            found.close()
            raise HandingFailed(str(found.agreed.get("error", "it refused")))
        return found

    agreed: Mapping[str, Any] = {}

    def say(self, line: Mapping[str, Any]) -> None:
        """Send one line of JSON."""
        self.sock.sendall(json.dumps(line).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """Return the line of JSON with which a hand-off is opened. Raises HandingFailed."""
        while b"\n" not in self._line:
            self._line += self._receive()
        line, _, rest = self._line.partition(b"\n")
        self._inbox.feed(rest)
        try:
            found = json.loads(line)
        except ValueError:
            raise HandingFailed("a line that is no JSON") from None
        if not isinstance(found, dict):
            raise HandingFailed("a line that is no object")
        return found

    def read(self) -> tuple[Message, list[int]] | None:
        """Return the next message and its descriptors, now the caller's; None at the end. Raises HandingFailed."""
        while True:
            try:
                message = self._inbox.take()
            except Improper as error:
                raise HandingFailed(str(error)) from None
            if message is not None:
                carried = message.count if message.kind == CONNECTIONS else 0
                if carried > len(self._descriptors):
                    raise HandingFailed("descriptors were lost on the way")
                taken, self._descriptors = self._descriptors[:carried], self._descriptors[carried:]
                return message, taken
            data = self._receive()
            if not data:
                return None
            self._inbox.feed(data)

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
            why = answer[0].body.decode(errors="replace") if answer else "it ended"
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

    def _receive(self) -> bytes:
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
        return data
