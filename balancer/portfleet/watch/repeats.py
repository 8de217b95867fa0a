"""Answers that daemons repeat unasked (docs/control.md, ``every``), so that at rest a probe is one read.

A question each second to each of 1,024 processes costs the watcher more than all else that a probe does: it wakes one
process after the other. An answer that is byte for byte the one before it means what that meant, and is not read again.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from portfleet.core.status import Status
from portfleet.daemons.answers import ControlError, ImproperAnswer, read_status
from portfleet.daemons.control import request
from portfleet.daemons.exchange import Control
from portfleet.daemons.talk import dial

#: Bytes that are read at once: as many as the counts take up that come in two minutes.
_ROOM = 65536
#: The longest that a daemon may be told to leave between two answers, in seconds (docs/control.md).
LONGEST = 60.0
#: An answer is late after so many intervals, and its instance is asked.
LATE = 1.1
#: What has come is read so many times an interval at least.
_READ = 8


@dataclass(slots=True)
class Repeated:
    """The connection over which process ``pid`` of the instance ``name`` repeats an answer each ``every`` seconds.

    ``came`` is its last answer, at ``at``; ``count`` says how many there were. While its instance rests it is in
    ``order``, among others of the interval.
    """

    name: str
    connection: socket.socket
    pid: int
    every: float
    came: bytes = b""
    at: float = 0.0
    count: int = 0
    order: dict[str, Repeated] | None = None


class Repeats:
    """What instances answer to ``command``, time and again; ``pid_of`` gives an instance's process."""

    def __init__(self, command: str, clock: Callable[[], float], pid_of: Callable[[str], int | None]) -> None:
        self._command, self._clock, self._pid_of = command, clock, pid_of
        self._poll = select.epoll()
        self._repeated: dict[str, Repeated] = {}
        self._by_descriptor: dict[int, Repeated] = {}
        #: By instance, its process that answers once only.
        self._once: dict[str, int] = {}
        #: By interval, who rests: whoever was heard longest ago comes first.
        self._orders: dict[float, dict[str, Repeated]] = {}

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
        repeated = Repeated(name, connection, place.pid, every, at=self._clock())
        self._repeated[name] = self._by_descriptor[connection.fileno()] = repeated
        self._poll.register(connection.fileno(), select.EPOLLIN)

    def news(self) -> list[tuple[str, Status | ControlError]]:
        """Take in what has come; return who says something else than before, or nothing more, and what it means."""
        found: list[tuple[str, Status | ControlError]] = []
        now = self._clock()
        for descriptor, _ in self._poll.poll(0):
            repeated = self._by_descriptor[descriptor]
            name = repeated.name
            try:
                came = repeated.connection.recv(_ROOM)
            except BlockingIOError:
                continue
            except OSError:
                came = b""
            repeated.at = now
            repeated.count += 1
            if (order := repeated.order) is not None:
                del order[name]
                order[name] = repeated
            if came != repeated.came:
                repeated.came = came
                found.append((name, _meant(came)))
            elif self._pid_of(name) != repeated.pid:
                found.append((name, ImproperAnswer("another process is the instance's by now")))
        return found

    def rest(self, name: str) -> bool:
        """Have `overdue` tell when an instance's answer is late; False if its process repeats none."""
        repeated = self._repeated.get(name)
        if repeated is None or repeated.pid != self._pid_of(name):
            return False
        if repeated.order is None:
            order = repeated.order = self._orders.setdefault(repeated.every, {})
            order[name] = repeated
            by_age = sorted(order.items(), key=lambda entry: entry[1].at)
            order.clear()
            order.update(by_age)
        return True

    def overdue(self) -> list[str]:
        """Return whose answer is late, of those that rest."""
        now, found = self._clock(), list[str]()
        for every, order in self._orders.items():
            for name, repeated in order.items():
                if now - repeated.at < LATE * every:
                    break
                found.append(name)
        return found

    def left(self, now: float) -> float:
        """Return the seconds until those that rest are to be looked at again; inf if none rests."""
        oldest = [(every, next(iter(order.values())).at) for every, order in self._orders.items() if order]
        return min((min(every / _READ, at + LATE * every - now) for every, at in oldest), default=inf)

    def rests(self, name: str) -> bool:
        """Return whether `overdue` tells of an instance."""
        return (repeated := self._repeated.get(name)) is not None and repeated.order is not None

    def wake(self, name: str) -> bool:
        """End an instance's rest; False if it had none."""
        repeated = self._repeated.get(name)
        if repeated is None or repeated.order is None:
            return False
        del repeated.order[name]
        repeated.order = None
        return True

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
        self.wake(name)
        if (repeated := self._repeated.pop(name, None)) is not None:
            del self._by_descriptor[repeated.connection.fileno()]
            repeated.connection.close()

    def end_all(self) -> None:
        """End all connections."""
        for name in list(self._repeated):
            self.end(name)

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
