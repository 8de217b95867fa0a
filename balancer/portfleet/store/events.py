"""The file of events: lines of JSON that the watcher and commands append to, kept by size.

Writers take turns by a flock(2) that each holds for one write. The lock file holds the last number that was given, so
that numbers grow for ever, whatever becomes of the events. A line that cannot be read costs that event.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from portfleet.core.errors import PortfleetError
from portfleet.core.events import Event, from_json, make
from portfleet.store import locks
from portfleet.store.clock import now_exactly

#: Bytes at which the file becomes the older one, which replaces the one before that.
MOST = 4 * 1024 * 1024
#: Digits of the number in the lock file: always as many, so that a full disk does not keep it from being written.
_DIGITS = 20
#: Events that wait for room on the disk, of which the oldest are lost.
_WAITING = 1000


def record(path: Path, kind: str, **fields: object) -> None:
    """Append an event of a command's, with its operator; what keeps it from being written costs the event alone."""
    event = make(kind, now_exactly(), {"operator": locks.operator(), **fields})
    with suppress(OSError, PortfleetError):
        EventFile(path).exchange([event])


class EventFile:
    """The events of one fleet at ``path``."""

    def __init__(self, path: Path, *, most: int = MOST, patience: float = 1.0) -> None:
        """``patience``: seconds to wait for the lock."""
        self._path, self._most, self._patience = path, most, patience
        self._lock = path.with_suffix(".lock")
        #: Which file was read last, by its inode, and how far.
        self._inode, self._offset = 0, 0
        self._last = 0
        #: What the file could not take, to be written as soon as it can.
        self._unwritten: list[Event] = []

    def read(self, *, most: int | None = None) -> list[Event]:
        """Return the last ``most`` events that are kept (None: all), oldest first; raise OSError."""
        self._inode = self._offset = 0
        lines = [*_data(self._older).split(b"\n"), *self._new_lines()]
        found = _events(lines if most is None else lines[-most:])
        return sorted(found, key=lambda event: event.number)  # what waited for room comes after later ones

    def news(self) -> list[Event]:
        """Return what was appended since the last `read`, `news` or `exchange`; raise OSError."""
        return list(_events(self._new_lines()))

    def _new_lines(self) -> list[bytes]:
        found: list[bytes] = []
        if self._inode and self._inode != _inode(self._path) and self._inode == _inode(self._older):
            found += _data(self._older, self._offset).split(b"\n")
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return found
        with file:
            known = os.fstat(file.fileno())
            if known.st_ino != self._inode or known.st_size < self._offset:
                self._inode, self._offset = known.st_ino, 0
            file.seek(self._offset)
            data = file.read()
        whole = data.rfind(b"\n") + 1  # the rest is being written
        self._offset += whole
        return [*found, *data[:whole].split(b"\n")]

    def exchange(self, events: Sequence[Event]) -> tuple[list[Event], OSError | None]:
        """Append ``events``; return what others have appended since the last look, then these with their numbers.

        The OSError says why the file could not take them; they have their numbers all the same, and are written with
        the next ones. Raise PortfleetError if the lock cannot be had: then nothing was done.
        """
        with locks.events(self._lock, seconds=self._patience) as lock:
            trouble: OSError | None = None
            others: list[Event] = []
            try:
                others = self.news()
            except OSError as error:
                trouble = error
            first = self._take_numbers(lock, len(events), others)
            kept = [replace(event, number=first + count) for count, event in enumerate(events)]
            self._unwritten += kept
            try:
                self._append(self._unwritten)
                self._unwritten = []
            except OSError as error:
                trouble, self._unwritten = error, self._unwritten[-_WAITING:]
            return [*others, *kept], trouble

    @property
    def waits(self) -> bool:
        """Return whether there is something that the file could not take yet."""
        return bool(self._unwritten)

    @property
    def _older(self) -> Path:
        """The file that this one has replaced."""
        return self._path.with_name(f"{self._path.name}.1")

    def _take_numbers(self, lock: int, count: int, others: Sequence[Event]) -> int:
        """Return the first of ``count`` new numbers, and note the last in the lock file."""
        self._last = max([self._last, *(event.number for event in others)])
        noted = os.pread(lock, _DIGITS, 0)
        if noted.isdigit():
            self._last = max(self._last, int(noted))
        elif count:  # lost or damaged: go by what the files say
            self._last = max([self._last, *(event.number for event in EventFile(self._path).read())])
        first = self._last + 1
        self._last += count
        with suppress(OSError):  # a full disk: the next number is found in the file, or by whoever knows it
            os.pwrite(lock, b"%0*d" % (_DIGITS, self._last), 0)
        return first

    def _append(self, events: Sequence[Event]) -> None:
        """Write ``events`` as whole lines or not at all; raise OSError."""
        if not events:
            return
        data = b"".join(json.dumps(event.to_json(), default=str).encode() + b"\n" for event in events)
        file = self._open()
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":  # what a crash cut short costs its own line only
                data = b"\n" + data
            if (written := os.write(file, data)) < len(data):
                os.ftruncate(file, size)
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {written} of {len(data)} bytes")
            self._inode, self._offset = os.fstat(file).st_ino, size + written
        finally:
            os.close(file)

    def _open(self) -> int:
        """Open the file for appending; one that is full becomes the older one."""
        with suppress(FileNotFoundError):
            if self._path.stat().st_size >= self._most:
                self._path.rename(self._older)
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _events(lines: Sequence[bytes]) -> Iterator[Event]:
    """Return the events of lines; a line that is none is left out."""
    for line in filter(None, lines):
        with suppress(ValueError, RecursionError):
            yield from_json(json.loads(line))


def _data(path: Path, offset: int = 0) -> bytes:
    """Return what a file has from ``offset`` on; nothing if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
