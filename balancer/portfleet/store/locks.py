"""The locks: a service's operation lock (long, says who, since when, why), the table's and the journal's (a moment).

All are flock(2) on a file, so the kernel lets go of them when their holder dies, however it dies. flock needs no right
to write: whoever can open a lock file can hold it, so the files are 0600 from their first moment.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from portfleet.core import typed
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.printable import printable
from portfleet.core.value import value
from portfleet.store import state_file
from portfleet.store.clock import now

#: Seconds between two tries to take a lock.
_TRY = 0.001


class Locked(PortfleetError):
    """Another process holds the lock; the text names it (exit 5)."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint, code=Exit.LOCKED)


@value
class Holder:
    """Who holds an operation lock, since when (RFC 3339, UTC) and why."""

    who: str
    since: str
    why: str
    pid: int

    def __str__(self) -> str:
        return f"{self.who} (pid {self.pid}) since {self.since}: {self.why}"


def operator() -> str:
    """Return who is at work, as user@host: what PORTFLEET_WHO says, as a playbook does, or the person behind sudo."""
    try:
        name = (
            printable(os.environ.get("PORTFLEET_WHO", ""), 64)
            or os.environ.get("SUDO_USER")
            or pwd.getpwuid(os.getuid()).pw_name
        )
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


#: Seconds for which a lock without a holder's name is tried: whoever only looks at it has it for microseconds, and
#: who has just taken it writes the name at once.
_NAMELESS = 0.1


@contextmanager
def operation(path: Path, *, service: str, why: str, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Hold the operation lock of ``service``; raise Locked, naming the holder, if it is taken."""
    with _open(path) as file:
        deadline = clock() + _NAMELESS
        while not _taken(file):
            holder = holder_of(path)
            if holder is None and clock() < deadline:
                time.sleep(_TRY)
                continue
            raise Locked(
                f"service {service} is locked by {holder or _words_of(path) or 'an operation that is just beginning'}",
                hint=f"wait for it to end; see: portfleet lock {service}",
            )
        with suppress(OSError):  # a full disk: held all the same, by a process of which the kernel tells the pid
            file.truncate(0)
            os.write(file.fileno(), json.dumps(asdict(Holder(operator(), now(), why, os.getpid()))).encode())
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def operations(paths: Callable[[str], Path], services: list[str], *, why: str) -> Iterator[None]:
    """Hold the operation locks of many services, in the order of their names, so that no two wait for each other."""
    with ExitStack() as stack:
        for service in sorted(services):
            stack.enter_context(operation(paths(service), service=service, why=why))
        yield


def holder_of(path: Path) -> Holder | None:
    """Return who holds an operation lock; None if it is free."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return typed.read(Holder, state_file.parse(file.read()), where=path.name)
    except (FileNotFoundError, ValueError):
        return None
    return None


def table(
    path: Path, *, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic
) -> AbstractContextManager[object]:
    """Hold the table lock: read, plan and one transaction; raise Locked after ``seconds`` (0: try once)."""
    return _brief(path, "table", seconds, clock)


def journal(
    path: Path, *, seconds: float, clock: Callable[[], float] = time.monotonic
) -> AbstractContextManager[object]:
    """Hold the journal's lock: read, change and write it; raise Locked after ``seconds`` (0: try once)."""
    return _brief(path, "journal", seconds, clock)


def relocation(
    path: Path, *, seconds: float, clock: Callable[[], float] = time.monotonic
) -> AbstractContextManager[object]:
    """Hold the lock of connections that come to an instance; raise Locked after ``seconds``."""
    return _brief(path, "relocation", seconds, clock)


def events(path: Path, *, seconds: float, clock: Callable[[], float] = time.monotonic) -> AbstractContextManager[int]:
    """Hold the lock of the file of events and yield its descriptor; raise Locked after ``seconds``."""
    return _brief(path, "events", seconds, clock)


@contextmanager
def watcher(path: Path, *, wait: Callable[..., object] | None = None) -> Iterator[None]:
    """Hold the watcher's lock for as long as it lives.

    ``wait`` is called with the ``reason`` to wait, and then the holder's end is waited for; without it, raise Locked.
    """
    with _open(path) as file:
        if not _taken(file):
            words = f"a watcher is already running for {path.parent} ({_words_of(path) or 'another process'})"
            if wait is None:
                raise Locked(words, hint="supervisord runs it; see: portfleet logs portfleet-watch")
            wait(reason=words)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def process_of(path: Path) -> int | None:
    """Return the process that holds the flock on ``path``; None if none does, or it cannot be told.

    /proc/locks has a line a lock: ``1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`` (proc_locks(5)).
    """
    try:
        found = path.stat()
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return None
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    pids = [int(line[4]) for line in lines if line[1] == "FLOCK" and line[5] == place]
    return next((pid for pid in pids if pid > 0), None)


def _words_of(path: Path) -> str:
    """Return which process holds the flock on ``path``, as ``pid 7 (portfleet apply)``; "" if that cannot be told."""
    pid = process_of(path)
    return f"pid {pid} ({_command(pid)})" if pid is not None else ""


def _command(pid: int) -> str:
    """Return the command of a process as people know it: without its interpreter and folders."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = []
    words = [word for word in words if word]
    if len(words) > 1 and "python" in words[0]:
        words = words[2:] if words[1] == "-m" else words[1:]
    words[:1] = [word.rpartition("/")[2] for word in words[:1]]
    text = "".join(char if char.isprintable() else "?" for char in " ".join(words))
    return text[:60] or "it has ended"


@contextmanager
def _brief(path: Path, name: str, seconds: float, clock: Callable[[], float]) -> Iterator[int]:
    with _open(path) as file:
        deadline = clock() + seconds
        while not _taken(file):
            if clock() >= deadline:
                who = _words_of(path) or "another process"
                words = f"the {name} lock {path} is held by {who}" + (f" for {seconds:.0f} s now" if seconds else "")
                raise Locked(words, hint=f"see what it does: fuser -v {path}")
            time.sleep(_TRY)
        yield file.fileno()


def held(path: Path) -> bool:
    """Return whether a process holds the flock on ``path``."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
    except FileNotFoundError:
        pass
    return False


def _open(path: Path) -> IO[str]:
    """Open a lock file, made for its owner alone; raise PortfleetError if that is not possible."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+")
    except OSError as error:
        hint = "run as root" if isinstance(error, PermissionError) else "portfleet up"
        raise PortfleetError(f"cannot open the lock {path}: {error.strerror}", hint=hint) from None


def _taken(file: IO[str]) -> bool:
    """Take the flock on ``file`` if no other process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True
