"""Whether supervisord and the watcher are there and do their work: each is asked, and has a stated time to answer.

A process that hangs or was stopped by a signal keeps its locks, and the kernel takes connections to its socket for it:
nothing but an answer shows that it works.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from portfleet.core.errors import PortfleetError
from portfleet.core.paths import Paths
from portfleet.core.program import watch_program
from portfleet.core.states import Presence
from portfleet.core.value import value
from portfleet.linux import processes
from portfleet.linux.patience import Patience
from portfleet.store import locks
from portfleet.supervise.supervisor import ShuttingDown, Supervisor, Unanswered

_QUESTION = b'{"command": "status"}\n'
#: Seconds between two looks at a watcher that has not answered yet.
_MOMENT = 0.02
#: Seconds within which supervisord makes a socket anew that was removed (`inside`), and the watcher its own.
_ANEW = 6.0


_IS = {
    Presence.STARTING: "is starting and does not answer yet",
    Presence.ENDING: "is shutting down",
    Presence.SUSPENDED: "was stopped by a signal",
    Presence.UNREACHABLE: "runs, but its socket was removed",
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


@value
class Trouble:
    """What is wrong, what follows from it, and the command that ends it."""

    what: str
    why: str
    hint: str

    @property
    def words(self) -> str:
        return f"{self.what}: {self.why}"


@value
class Overseer:
    """One of the two that look after a fleet: ``name`` is "supervisord" or "the watcher".

    ``pid`` is the process of one that is there and does not answer, if it can be told.
    """

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
            case Presence.UNREACHABLE:
                return f"it makes another within {_ANEW:.0f} s; look again then: portfleet status"
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
    """Return supervisord as it was found, with its process if it is there and does not answer."""
    shown = presence in (Presence.HUNG, Presence.SUSPENDED, Presence.UNREACHABLE)
    return Overseer("supervisord", presence, supervisor_pid(paths) if shown else None)


def ask_supervisord(paths: Paths, *, seconds: float) -> Overseer:
    """Ask supervisord and wait for its answer for ``seconds`` at most."""
    if is_suspended(supervisor_pid(paths)):
        return supervisord(paths, Presence.SUSPENDED)
    presence = Presence.RUNNING
    try:
        Supervisor(paths.supervisor_socket, seconds=seconds).nudge()
    except PortfleetError as error:
        presence = presence_by(error, paths)
    return supervisord(paths, presence)


def presence_by(error: PortfleetError, paths: Paths) -> Presence:
    """Return what a call that supervisord did not answer says of it."""
    if isinstance(error, Unanswered):
        return Presence.HUNG
    if isinstance(error, ShuttingDown):
        return Presence.ENDING
    return Presence.UNREACHABLE if lacks_socket(paths) else Presence.ABSENT


def lacks_socket(paths: Paths) -> bool:
    """Return whether supervisord runs and cannot be asked, as its socket was removed."""
    return not paths.supervisor_socket.exists() and supervisor_pid(paths) is not None


def await_socket(paths: Paths, say: Callable[[str], None]) -> None:
    """Wait until supervisord has made its socket anew if that was removed; ``say`` is told so."""
    if not lacks_socket(paths):
        return
    say("supervisord's socket was removed; it makes another, which is waited for")
    deadline = time.monotonic() + _ANEW
    while lacks_socket(paths) and time.monotonic() < deadline:
        time.sleep(_MOMENT)


class WatcherQuestion:
    """A question to the watcher, asked when this is made; its `answer` may be waited for later.

    Raises PortfleetError without the right to ask.
    """

    def __init__(self, paths: Paths, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._paths, self._clock, self._asked = paths, clock, clock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._full = False
        self._read = b""
        self._sent = self._send()

    @property
    def said(self) -> dict[str, Any]:
        """Return what the watcher answered (`Snapshot.status`), empty before it has."""
        return dict(json.loads(self._read)) if self._read.endswith(b"\n") else {}

    def answer(self, *, seconds: float) -> Overseer:
        """Return the watcher as it shows itself within ``seconds`` of the question.

        One that listens is waited for longer while it waits for a processor (`Patience`).
        """
        deadline, patience = self._asked + seconds, None
        try:
            while not self._answered():
                if not locks.held(self._paths.watch_lock) and watcher_pid(self._paths) is None:
                    return Overseer("the watcher", Presence.ABSENT)
                pid = locks.process_of(self._paths.watch_lock) or watcher_pid(self._paths)
                if is_suspended(pid):
                    return Overseer("the watcher", Presence.SUSPENDED, pid)
                listens = self._sent or self._full
                patience = patience or Patience(seconds, pid, clock=self._clock)
                if self._clock() > deadline:
                    if listens and patience.goes_on():
                        deadline = self._clock() + seconds
                        continue
                    return Overseer("the watcher", Presence.HUNG if listens else Presence.STARTING, pid)
        finally:
            self._socket.close()
        return Overseer("the watcher", Presence.RUNNING)

    def _answered(self) -> bool:
        """Wait for a moment; return whether the answer has come by then."""
        if not self._sent:
            self._sent = self._send()
        self._socket.settimeout(_MOMENT)
        try:
            while not self._read.endswith(b"\n"):
                if not (some := self._socket.recv(1 << 16)):
                    break
                self._read += some
            else:
                return True
            self._socket.close()  # it ended before it could answer; another one may follow
            self._socket, self._sent, self._read = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), False, b""
        except TimeoutError:
            return False
        except OSError:  # not connected
            pass
        time.sleep(_MOMENT)
        return False

    def _send(self) -> bool:
        """Send the question; False while none listens, or so many wait already that the kernel lets no more in."""
        self._socket.setblocking(False)
        try:
            self._socket.connect(str(self._paths.watch_socket))
            self._socket.send(_QUESTION)
        except PermissionError as error:
            self._socket.close()
            raise PortfleetError(
                f"only root may look at this fleet: the watcher's socket: {error.strerror}",
                hint="sudo portfleet status",
            ) from None
        except OSError as error:
            self._full = isinstance(error, BlockingIOError)
            return False
        return True


def is_suspended(pid: int | None) -> bool:
    """Return whether a signal holds a process (state T of proc_pid_stat(5)): it does not answer, however long."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def supervisor_pid(paths: Paths) -> int | None:
    """Return supervisord's process by its pid file, or by what runs if that was removed; None if there is none.

    Not by SO_PEERCRED: it listens first and becomes a daemon, another process, later.
    """
    config = os.fsencode(paths.supervisor_config)
    try:
        pid = int((paths.run / "supervisord.pid").read_text())
    except (OSError, ValueError):
        return _running(lambda words: config in words and b"supervisor.supervisord" in words)
    return pid if config in processes.command_line(pid) else None


def watcher_pid(paths: Paths) -> int | None:
    """Return the watcher's process by what runs, for when the lock that it holds was removed; None if there is none."""
    words = [os.fsencode(word) for word in watch_program(paths, sys.executable).command[1:]]
    return _running(lambda found: found[1:] == words)


def _running(wanted: Callable[[list[bytes]], bool]) -> int | None:
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return next((pid for pid in pids if wanted(processes.command_line(pid))), None)
