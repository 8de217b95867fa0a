"""What tells whether files have been replaced or edited since they were looked at, without reading them.

As git's index does: by inode, size and time of modification. rsync, tar and editors change one of them, and so does a
copy over a file; a hard link, chown and a backup do not, though they change ctime. By ctime is told when that was.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

#: So many files and folders are looked at, the upper ones first: 50 ms.
_MOST = 5_000
#: What is written beside files by who reads them.
_NOT_CONTENT = frozenset({"__pycache__", ".git"})


@dataclass(frozen=True)
class Content:
    """What files are now. ``digest`` differs if any does; ``newest`` was the last to change, ``at`` that Unix time."""

    digest: str
    newest: str
    at: float


def content_of(places: Iterable[str]) -> Content | None:
    """Return what files, and all files below folders, are now; None if none of ``places`` is there."""
    found, newest, at = hashlib.sha256(), "", 0.0
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
            found.update(f"{place}\0{there.st_ino} {there.st_size} {there.st_mtime_ns}\0".encode(errors="replace"))
            if there.st_ctime > at:
                newest, at = place, there.st_ctime
    return Content(found.hexdigest()[:16], newest, at) if newest else None
