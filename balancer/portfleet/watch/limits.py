"""Limits of the machine that end in clients turned away without a word: the data plane's room, descriptors, backlogs.

What is read is a handful of files of /proc; what it means is judged by pure functions.

- From Linux 6.2 the size of /proc/PID/fd is the number of open descriptors; before, the directory must be listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from portfleet.core.printable import quantity
from portfleet.core.status import Status
from portfleet.dataplane.interface import Hazard, Room
from portfleet.linux.processes import descriptor_limits

#: From this share of a limit on an operator is told.
_NEAR = 0.9


@dataclass(frozen=True)
class Descriptors:
    """A process's open descriptors and the limit it runs with."""

    used: int
    limit: int


@dataclass(frozen=True)
class Near:
    """One limit that is near or reached: a name for programs, words for people, and what to do."""

    name: str
    text: str
    hint: str


def read_descriptors(pid: int) -> Descriptors | None:
    """Read a process's descriptors; None if it is gone."""
    directory = f"/proc/{pid}/fd"
    try:
        used = os.stat(directory).st_size or len(os.listdir(directory))  # noqa: PTH116 (hot: once per instance)
        return Descriptors(used, descriptor_limits(pid)[0])
    except OSError:
        return None


def read_files() -> Descriptors:
    """Read the whole machine's open files and their limit (fs.file-max)."""
    used, _, limit = _read("/proc/sys/fs/file-nr").split()
    return Descriptors(int(used), int(limit))


def judge(
    *,
    hazards: Iterable[Hazard],
    room: Room | None,
    dropped: int,
    files: Descriptors,
    processes: Mapping[str, Descriptors],
    said: Mapping[str, Status],
) -> list[Near]:
    """Say which limits are near or reached.

    ``hazards`` are told of as they are; ``room`` is the data plane's own, ``dropped`` how many connections found none
    lately; ``said``: what daemons that tell said of their connections.
    """
    found = [Near(hazard.about, hazard.words, hazard.hint) for hazard in hazards]
    if room is not None and (dropped or room.used >= _NEAR * room.limit):
        words = room.words
        if dropped:
            lost = quantity(dropped, "new connection", "was")
            words += f"; {lost} dropped in the last minute, when it was full"
        found.append(Near(room.about, words, room.hint))
    if files.used >= _NEAR * files.limit:
        words = f"this machine has {files.used:,} of {files.limit:,} files open"
        found.append(Near("files", words, f"sysctl -w fs.file-max={2 * files.limit}"))
    for name, process in processes.items():
        if process.used >= _NEAR * process.limit:
            words = f"{name} has {process.used:,} of {process.limit:,} descriptors open"
            hint = "more instances (portfleet scale), or a higher limit: fs.nr_open, LimitNOFILE= of portfleet.service"
            found.append(Near(f"descriptors:{name}", words, hint))
    for name, status in said.items():
        if (now := status.connections) >= _NEAR * (most := status.max_connections) > 0:
            words = f"{name} has {now:,} of {quantity(most, 'connection')}; what is more waits in its backlog"
            found.append(Near(f"connections:{name}", words, "more instances (portfleet scale), or max_connections"))
    return found


def _read(path: str) -> str:
    return Path(path).read_text()
