"""Answers that daemons repeat unasked (docs/control.md, ``every``), so that at rest a probe is one read.

A question each second to each of 1,024 processes costs the watcher more than all else that a probe does: it wakes one
process after the other. An answer that is byte for byte the one before it means what that meant, and is not read again.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass

from portfleet.core.status import Status
from portfleet.daemons.answers import ControlError, ImproperAnswer, read_status
from portfleet.daemons.control import request
from portfleet.daemons.exchange import Control
from portfleet.daemons.talk import dial

#: Bytes that are read at once: as many as the counts take up that come in two minutes.
_ROOM = 65536
#: The longest that a daemon may be told to leave between two answers, in seconds (docs/control.md).
LONGEST = 60.0


@dataclass(slots=True)
class Repeated:
    """The connection over which process ``pid`` repeats an answer each ``every`` seconds.

    ``came`` is its last answer, at ``at``; ``count`` says how many there were.
    """

    connection: socket.socket
    pid: int
    every: float
    came: bytes = b""
    at: float = 0.0
    count: int = 0


class Repeats:
    """What instances answer to ``command``, time and again."""

    def __init__(self, command: str, clock: Callable[[], float]) -> None:
        self._command, self._clock = command, clock
        self._poll, self._names = select.epoll(), dict[int, str]()
        self._repeated: dict[str, Repeated] = {}
        #: By instance, its process that answers once only.
        self._once: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._repeated

    def at(self, name: str, pid: int | None, every: float) -> float | None:
        """Return when the last answer of process ``pid`` came; None if it repeats none each ``every`` seconds."""
        repeated = self._repeated.get(name)
        if repeated is None or repeated.pid != pid or repeated.every != min(every, LONGEST):
            return None
        return repeated.at

    def begin(self, name: str, place: Control, every: float) -> None:
        """Have the process at ``place`` repeat its answer, unless it is known to answer once only."""
        if place.pid is None or self._once.get(name) == place.pid:
            return
        self.end(name)
        every = min(every, LONGEST)
        try:
            connection = dial(place)
            connection.send(request(self._command, every=every))
        except (OSError, ControlError):  # a probe that asks says what is wrong
            return
        self._repeated[name] = Repeated(connection, place.pid, every, at=self._clock())
        self._poll.register(connection.fileno(), select.EPOLLIN)
        self._names[connection.fileno()] = name

    def news(self) -> list[tuple[str, Status | ControlError]]:
        """Take in what has come; return who says something else than before, or nothing more, and what it means."""
        found: list[tuple[str, Status | ControlError]] = []
        now = self._clock()
        for descriptor, _ in self._poll.poll(0):
            name = self._names[descriptor]
            repeated = self._repeated[name]
            try:
                came = repeated.connection.recv(_ROOM)
            except BlockingIOError:
                continue
            except OSError:
                came = b""
            repeated.at = now
            repeated.count += 1
            if came != repeated.came:
                repeated.came = came
                found.append((name, _meant(came)))
        return found

    def late(self, name: str) -> None:
        """Take in that an answer is missing: a process that answered once only is not told to repeat again."""
        repeated = self._repeated[name]
        if repeated.count == 1:
            self.refused(name)
        self.end(name)

    def refused(self, name: str) -> None:
        """Take in that an instance's process answers once only."""
        self._once[name] = self._repeated[name].pid
        self.end(name)

    def end(self, name: str) -> None:
        """End the connection, if there is one."""
        if (repeated := self._repeated.pop(name, None)) is not None:
            del self._names[repeated.connection.fileno()]
            repeated.connection.close()

    def drop(self, name: str) -> None:
        """Forget an instance."""
        self.end(name)
        self._once.pop(name, None)


def _meant(came: bytes) -> Status | ControlError:
    """Return what the last of some answers means."""
    if not came.endswith(b"\n"):
        return ImproperAnswer("its answer does not end" if came else "it closed the connection")
    try:
        return read_status(came[came.rfind(b"\n", 0, -1) + 1 : -1])
    except ControlError as error:
        return error
