"""The two locks: the operation lock of a service (long, says who, since when, why) and the table lock (a moment).

Both are flock(2) on a file, so the kernel lets go of them when their holder dies, however it dies.
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
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.printable import printable
from portfleet.store.clock import now


@dataclass(frozen=True)
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
    """Hold the operation lock of ``service``; raises PortfleetError (exit 5) naming the holder when it is taken."""
    with path.open("a+") as file:
        deadline = clock() + _NAMELESS
        while not _taken(file):
            holder = holder_of(path)
            if holder is None and clock() < deadline:
                time.sleep(0.001)
                continue
            raise PortfleetError(
                f"service {service} is locked by {holder or 'an operation that is just beginning'}",
                hint=f"wait for it to end; see: portfleet lock {service}",
                code=Exit.LOCKED,
            )
        file.truncate(0)
        file.write(json.dumps(asdict(Holder(operator(), now(), why, os.getpid()))))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def operations(paths: Callable[[str], Path], services: list[str], *, why: str) -> Iterator[None]:
    """Hold the operation locks of many services, taken in the order of their names so that nobody waits in a ring."""
    with ExitStack() as stack:
        for service in sorted(services):
            stack.enter_context(operation(paths(service), service=service, why=why))
        yield


def holder_of(path: Path) -> Holder | None:
    """Say who holds an operation lock; None where nobody does."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return Holder(**json.load(file))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return None


@contextmanager
def table(path: Path, *, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Hold the table lock: read, plan and one transaction; raises PortfleetError (exit 5) after ``seconds``."""
    with path.open("a+") as file:
        deadline = clock() + seconds
        while not _taken(file):
            if clock() > deadline:
                raise PortfleetError(
                    f"the table lock {path} has been held by another process for {seconds:.0f} s",
                    hint=f"see who: fuser -v {path}",
                    code=Exit.LOCKED,
                )
            time.sleep(0.001)
        yield


def held(path: Path) -> bool:
    """Return whether somebody holds the flock on ``path``."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
    except FileNotFoundError:
        pass
    return False


def process_of(path: Path) -> int | None:
    """Return the process that holds the flock on ``path`` (proc_locks(5)); None if none does, or it cannot be told."""
    try:
        found = path.stat()
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return None
    return next((int(words[4]) for words in lines if words[1] == "FLOCK" and words[5] == place), None)


def _taken(file: IO[str]) -> bool:
    """Take the flock on ``file`` where nobody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True
