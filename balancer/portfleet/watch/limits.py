"""Limits of the machine that end in clients turned away without a word: conntrack's table, descriptors, backlogs.

What is read is a handful of files of /proc; what it means is judged by pure functions.

- The connection table is counted per network namespace, its limit is the machine's. When it is full, new connections
  are dropped; ``drop`` of /proc/net/stat/nf_conntrack (hexadecimal, a line per CPU) counts them.
- From Linux 6.2 the size of /proc/PID/fd is the number of open descriptors; before, the directory must be listed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from portfleet.linux.processes import descriptor_limits

#: From this share of a limit on an operator is told.
_NEAR = 0.9
#: From this share on conntrack's table counts as full: entries that end make room for moments only.
_FULL = 0.98


@dataclass(frozen=True)
class Table:
    """conntrack's table: entries now, its limit, and connections dropped because of it since boot."""

    entries: int
    limit: int
    dropped: int


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


def read_table() -> Table | None:
    """Read conntrack's numbers; None where the module is not there."""
    try:
        entries, limit = (int(_read(f"/proc/sys/net/netfilter/nf_conntrack_{name}")) for name in ("count", "max"))
        header, *rows = _read("/proc/net/stat/nf_conntrack").splitlines()
    except OSError:
        return None
    column = header.split().index("drop")
    return Table(entries, limit, sum(int(row.split()[column], 16) for row in rows))


def full_table() -> str:
    """Say that conntrack's table is full, or so nearly that it was a moment ago; "" where it is not."""
    try:
        entries, limit = (int(_read(f"/proc/sys/net/netfilter/nf_conntrack_{name}")) for name in ("count", "max"))
    except OSError:
        return ""
    return f"conntrack holds {entries:,} of {limit:,} entries: new connections are dropped" * (entries >= _FULL * limit)


def read_descriptors(pid: int) -> Descriptors | None:
    """Read a process's descriptors; None where it is gone."""
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
    table: Table | None,
    dropped: int,
    files: Descriptors,
    processes: Mapping[str, Descriptors],
    connections: Mapping[str, tuple[int, int]],
) -> list[Near]:
    """Say which limits are near or reached.

    ``dropped`` is how many connections conntrack dropped lately; ``connections`` gives, of daemons that tell, how many
    they have and how many they take.
    """
    found = []
    if table is not None and (dropped or table.entries >= _NEAR * table.limit):
        words = f"conntrack holds {table.entries:,} of {table.limit:,} entries"
        if dropped:
            words += f"; {dropped:,} new connections were dropped in the last minute, when it was full"
        found.append(Near("conntrack", words, f"sysctl -w net.netfilter.nf_conntrack_max={2 * table.limit}"))
    if files.used >= _NEAR * files.limit:
        words = f"this machine has {files.used:,} of {files.limit:,} files open"
        found.append(Near("files", words, f"sysctl -w fs.file-max={2 * files.limit}"))
    for name, process in processes.items():
        if process.used >= _NEAR * process.limit:
            words = f"{name} has {process.used:,} of {process.limit:,} descriptors open"
            hint = "more instances (portfleet scale), or a higher limit: fs.nr_open, LimitNOFILE= of portfleet.service"
            found.append(Near(f"descriptors:{name}", words, hint))
    for name, (now, most) in connections.items():
        if now >= _NEAR * most > 0:
            words = f"{name} has {now:,} of {most:,} connections; what is more waits in its backlog"
            found.append(Near(f"connections:{name}", words, "more instances (portfleet scale), or max_connections"))
    return found


def _read(path: str) -> str:
    return Path(path).read_text()
