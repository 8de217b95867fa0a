"""Whether supervisord and the watcher are there and do their work: each is asked, and has a stated time to answer.

A process that hangs or was stopped by a signal keeps its locks, and the kernel takes connections to its socket for it:
nothing but an answer shows that it works.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from portfleet.core.errors import PortfleetError
from portfleet.core.paths import Paths
from portfleet.core.states import Presence
from portfleet.store import locks
from portfleet.supervise.supervisor import ShuttingDown, Supervisor, Unanswered

_QUESTION = b'{"command": "status"}\n'
_CREDENTIALS = struct.Struct("=iII")  # struct ucred of unix(7): pid, uid, gid
#: Seconds between two looks for the socket of a watcher that is starting.
_MOMENT = 0.02
#: The state of a process that a signal holds. (One that is traced, "t", goes on by itself.)
_STOPPED = "T"


_IS = {
    Presence.STARTING: "is starting and does not answer yet",
    Presence.ENDING: "is shutting down",
    Presence.SUSPENDED: "was stopped by a signal",
    Presence.HUNG: "does not answer",
    Presence.ABSENT: "is not running",
}
_COSTS = {
    "supervisord": "an instance that ends is not started again",
    "the watcher": "no instance is ejected or let in again, rules are not repaired, operations stand still",
}
_KILLED = {
    "supervisord": "instances go on serving; the watcher has another one started",
    "the watcher": "clients notice nothing; supervisord starts another one",
}
_LOG = {"supervisord": "supervisord", "the watcher": "portfleet-watch"}


@dataclass(frozen=True)
class Trouble:
    """What is wrong, what follows from it, and the command that ends it."""

    what: str
    why: str
    hint: str

    @property
    def words(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True)
class Overseer:
    """One of the two that look after a fleet: ``name`` is "supervisord" or "the watcher"; ``pid`` where it is known."""

    name: str
    presence: Presence
    pid: int | None = None

    @property
    def works(self) -> bool:
        return self.presence is Presence.RUNNING

    @property
    def trouble(self) -> Trouble:
        """What is wrong with one that does not work."""
        who = f"{self.name} (pid {self.pid})" if self.pid else self.name
        return Trouble(f"{who} {_IS[self.presence]}", _COSTS[self.name], self._hint())

    def _hint(self) -> str:
        match self.presence:
            case Presence.SUSPENDED:
                return f"kill -CONT {self.pid}"
            case Presence.HUNG if self.pid:
                return f"kill -KILL {self.pid}   # {_KILLED[self.name]}"
            case Presence.HUNG | Presence.STARTING:
                return f"portfleet logs {_LOG[self.name]}"
            case Presence.ENDING:
                return "when it has ended: portfleet up"
            case _:
                return "portfleet up"


def troubles(supervisord: Overseer, watcher: Overseer) -> list[Trouble]:
    """Return what is wrong with the two, the worse first."""
    if supervisord.presence is watcher.presence is Presence.ABSENT:
        why = "the fleet is down, or goes on as long as nothing happens"
        return [Trouble("neither supervisord nor the watcher is running", why, "portfleet up")]
    return [overseer.trouble for overseer in (watcher, supervisord) if not overseer.works]


def supervisord(paths: Paths, presence: Presence) -> Overseer:
    """Return supervisord as it was found, with its process; one that does not answer may be held by a signal."""
    pid = supervisor_pid(paths) if presence in (Presence.HUNG, Presence.ENDING) else None
    return Overseer("supervisord", _closer(presence, pid), pid)


def ask_supervisord(paths: Paths, *, seconds: float) -> Overseer:
    """Ask supervisord and wait for its answer for ``seconds`` at most."""
    presence, pid = Presence.RUNNING, supervisor_pid(paths)
    if _state(pid) == _STOPPED:
        return Overseer("supervisord", Presence.SUSPENDED, pid)
    try:
        Supervisor(paths.supervisor_socket, seconds=seconds).nudge()
    except PortfleetError as error:
        presence = presence_by(error)
    return supervisord(paths, presence)


def presence_by(error: PortfleetError) -> Presence:
    """Return what a call that supervisord did not answer says of it."""
    if isinstance(error, Unanswered):
        return Presence.HUNG
    return Presence.ENDING if isinstance(error, ShuttingDown) else Presence.ABSENT


class WatcherQuestion:
    """A question to the watcher, asked when this is made; its `answer` may be waited for later.

    Raises PortfleetError without the right to ask.
    """

    def __init__(self, paths: Paths, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._paths, self._clock, self._asked = paths, clock, clock()
        self._socket: socket.socket | None = None
        self._pid: int | None = None
        self._listens = self._ask()

    def answer(self, *, seconds: float) -> Overseer:
        """Return the watcher as it shows itself within ``seconds`` of the question."""
        deadline = self._asked + seconds
        try:
            while not self._listens:
                if not locks.held(self._paths.watch_lock):
                    return self._found(Presence.ABSENT)
                if self._clock() > deadline:
                    return self._found(Presence.STARTING)
                time.sleep(_MOMENT)
                self._listens = self._ask()
            if _state(self._pid) == _STOPPED:
                return self._found(Presence.SUSPENDED)
            return self._found(Presence.RUNNING if self._answered(deadline) else Presence.HUNG)
        finally:
            if self._socket is not None:
                self._socket.close()

    def _found(self, presence: Presence) -> Overseer:
        return Overseer("the watcher", _closer(presence, self._pid), self._pid)

    def _ask(self) -> bool:
        """Send the question; False while nobody listens."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(str(self._paths.watch_socket))
            self._pid = _CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )[0]
            connection.send(_QUESTION)
        except BlockingIOError:  # so many wait for an answer already that the kernel takes no more
            connection.close()
            return True
        except PermissionError as error:
            connection.close()
            raise PortfleetError(f"cannot ask the watcher: {error.strerror}", hint="run as root") from None
        except OSError:
            connection.close()
            return False
        self._socket = connection
        return True

    def _answered(self, deadline: float) -> bool:
        if self._socket is None:
            return False
        self._socket.settimeout(max(_MOMENT, deadline - self._clock()))
        try:
            return bool(self._socket.recv(1))
        except OSError:
            return False


def _closer(presence: Presence, pid: int | None) -> Presence:
    """Return ``presence`` at a closer look: a process that does not answer may be held by a signal."""
    return Presence.SUSPENDED if presence is Presence.HUNG and _state(pid) == _STOPPED else presence


def _state(pid: int | None) -> str:
    """Return the state of a process, a letter of proc_pid_stat(5); "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def supervisor_pid(paths: Paths) -> int | None:
    """Return supervisord's process by its pid file; None where that is not this fleet's supervisord.

    Not by SO_PEERCRED: it listens first and becomes a daemon, another process, later.
    """
    try:
        pid = int((paths.run / "supervisord.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(paths.supervisor_config) in words else None
