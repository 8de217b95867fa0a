"""Write a file so that a crash at any moment leaves either the old or the new content, never a part."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

from portfleet.store import faults

_numbers = itertools.count()


def write(
    path: Path, data: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None, durable: bool = True
) -> None:
    """Replace the content of ``path``: temporary file beside it, fsync, rename, fsync of the directory.

    ``owner`` is whose it is to be, user and group; None: the caller's. Without ``durable`` nothing is synced: for what
    a boot makes anew, and clients wait for. Raises OSError; then ``path`` is as it was.
    """
    faults.point(f"before write {path.name}")
    # Not by the module tempfile, which costs every verb 3 ms. A name with our pid is ours, even if one with that
    # pid was killed while it wrote.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}")
    handle = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)  # while it is the caller's, who may lack CAP_FOWNER as under the unit
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            if durable:
                os.fsync(file.fileno())
        faults.point(f"before rename {path.name}")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)
    faults.point(f"after write {path.name}")


def replace(path: Path, text: str) -> None:
    """Replace the content of a file of run/, for its owner alone. Raise OSError; then ``path`` is as it was.

    Not synced to disk: run/ does not outlive a reboot, and neither does what its files tell of.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: str | Path) -> bytes | None:
    """Return what a regular file holds; None for anything else, and for what cannot be read. It never waits.

    By system calls: for each of 1,024 files pathlib takes four times as long.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            return None
        parts = [os.read(handle, found.st_size + 1)]
        while parts[-1]:
            parts.append(os.read(handle, 1 << 16))
        return b"".join(parts)
    except OSError:
        return None
    finally:
        os.close(handle)


def version(path: Path) -> tuple[int, int] | None:
    """Return what differs between any two versions of a file that `write` has written; None if there is no file.

    Each is a new inode. Its time alone would not do: the clock of files ticks, and two writes may come in one tick.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
