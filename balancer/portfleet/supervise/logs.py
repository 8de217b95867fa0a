"""The logs of programs that supervisord runs: their ends, what was written since a time, and what comes next."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

#: supervisord keeps NAME.log.1 to .3 (stdout_logfile_backups), the last the oldest.
_KEPT = (3, 2, 1)
#: What our daemon, the watcher and many others begin a line with (RFC 3339); without a zone it is local time.
_STAMP = re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:\d\d)?")
#: How much is read at a time, in bytes; a longer line comes in parts.
_BLOCK = 1 << 16


def last(path: Path, count: int) -> list[bytes]:
    """Return the last ``count`` lines of a log; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return [line.rstrip(b"\n") for line in deque(file, count)]


def since(path: Path, moment: float) -> list[bytes]:
    """Return the lines of a log from the Unix time ``moment`` on, also of what was rotated away; raises OSError.

    A line without a time of its own belongs to the one before.
    """
    found: list[bytes] = []
    taken = False
    for file in (*(path.with_name(f"{path.name}.{number}") for number in _KEPT), path):
        if file != path and not (file.exists() and file.stat().st_mtime >= moment):
            continue
        with file.open("rb") as lines:
            for line in lines:
                at = _time(line)
                taken = taken if at is None else at >= moment
                if taken:
                    found.append(line.rstrip(b"\n"))
    return found


def _time(line: bytes) -> float | None:
    stamp = _STAMP.match(line)
    if stamp is None:
        return None
    try:
        return datetime.fromisoformat(stamp[0].decode().replace(",", ".")).timestamp()
    except ValueError:
        return None


class Tail:
    """A log that goes on being read from its end, also when another file takes its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        if (file := self._open()) is not None:
            file.seek(0, os.SEEK_END)

    def _open(self) -> BinaryIO | None:
        try:
            self._file = self._path.open("rb")
        except OSError:
            self._file = None
        return self._file

    def lines(self) -> Iterator[bytes]:
        """Yield what was written since the last time, by lines."""
        if self._file is None and self._open() is None:
            return
        yield from self._read()
        if self._replaced():
            yield from self._read()  # what came before it was set aside
            self.close()
            if self._open() is not None:
                yield from self._read()

    def _read(self) -> Iterator[bytes]:
        while self._file is not None and (data := self._file.read(_BLOCK)):
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield from lines
            if len(self._rest) >= _BLOCK:
                yield self._rest
                self._rest = b""

    def _replaced(self) -> bool:
        if self._file is None:
            return False
        try:
            there, ours = self._path.stat(), os.fstat(self._file.fileno())
        except OSError:
            return False  # set aside, and the new one is not there yet
        return there.st_ino != ours.st_ino or there.st_size < self._file.tell()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
