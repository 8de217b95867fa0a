"""Tells whether files have been replaced or edited since they were looked at, and when; mostly without reading them.

As git's index does: by inode, size and time of modification. rsync, tar and editors change one of them, and so does a
copy over a file; a hard link, chown and a backup do not, though they change ctime. By ctime is told when that was.
Only where one of them has changed does what is in the files decide: a reinstallation may write the same once more.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from portfleet.core.value import value

#: So many files and folders are looked at, the upper ones first: 50 ms.
_MOST = 5_000
#: So many bytes are read, a tenth of a second; of files beyond them size and time of modification count.
_READ = 64 << 20
#: What is written beside files by who reads them.
_NOT_CONTENT = frozenset({"__pycache__", ".git"})


@value
class Content:
    """What files are now. ``stamp`` differs if any was written; ``newest`` changed last, ``at`` that Unix time."""

    stamp: str
    newest: str
    at: float


def content_of(places: Iterable[str]) -> Content | None:
    """Return what files, and all files below folders, are now; None if none of ``places`` is there."""
    found, newest, at = hashlib.sha256(), "", 0.0
    for place, there in _files(places):
        found.update(f"{place}\0{there.st_ino} {there.st_size} {there.st_mtime_ns}\0".encode(errors="replace"))
        if there.st_ctime > at:
            newest, at = place, there.st_ctime
    return Content(found.hexdigest()[:16], newest, at) if newest else None


def digest_of(places: Iterable[str]) -> str:
    """Return what tells whether anything in files, and in all files below folders, has changed."""
    found, left = hashlib.sha256(), _READ
    for place, there in _files(places):
        found.update(f"{place}\0{there.st_size}\0".encode(errors="replace"))
        left -= there.st_size
        with suppress(OSError):  # it is gone meanwhile, or closed to this user
            if stat.S_ISLNK(there.st_mode):
                found.update(os.fsencode(os.readlink(place)))
            elif left < 0:
                found.update(f"{there.st_mtime_ns}".encode())
            else:
                with Path(place).open("rb") as file:
                    found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def _files(places: Iterable[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each file and symbolic link of ``places`` and below them."""
    left, looked = deque(sorted(set(places))), 0
    while left and looked < _MOST:
        place = left.popleft()
        looked += 1
        try:
            there = os.lstat(place)
            if stat.S_ISDIR(there.st_mode):
                left += [f"{place}/{name}" for name in sorted(os.listdir(place)) if name not in _NOT_CONTENT]
                continue
        except OSError:  # it is gone, or closed to this user
            continue
        if stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode):
            yield place, there
