"""A connection to a control socket that is kept from one probe to the next, and the answers that came over it.

An answer that is byte for byte one that was read before means what it meant then, so it is not read again. Anything
else that comes (another answer, a part of one, an end) is for `daemons.talk`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from portfleet.core.status import Status
from portfleet.daemons.probe import REQUESTS

#: Bytes that are taken at once.
_ROOM = 4096


@dataclass(slots=True)
class Kept:
    """The connection to the control socket of process ``pid``; ``said``: by command, its last answer and its meaning.

    While it is asked, ``command`` is what, since ``began`` and until ``deadline``.
    """

    connection: socket.socket
    pid: int | None
    said: dict[str, tuple[bytes, Status]] = field(default_factory=dict)
    command: str = ""
    began: float = 0.0
    deadline: float = 0.0

    def ask(self, command: str, began: float, deadline: float) -> bool:
        """Send a command; False if that cannot be. So short a line goes whole or not at all."""
        self.command, self.began, self.deadline = command, began, deadline
        try:
            self.connection.send(REQUESTS[command])
        except OSError:
            return False
        return True

    def answer(self) -> bytes | None:
        """Return what has come, b"" for an end; None if nothing has."""
        try:
            return self.connection.recv(_ROOM)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def known(self, came: bytes) -> Status | None:
        """Return what an answer means that is the same as the last one to this command."""
        said = self.said.get(self.command)
        return said[1] if said is not None and said[0] == came else None
