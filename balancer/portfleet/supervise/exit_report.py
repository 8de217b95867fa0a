"""What an instance left behind when it ended: how it ended, and the last lines of its log."""

from __future__ import annotations

import os
import re
from pathlib import Path

from portfleet.core.paths import Paths
from portfleet.core.printable import printable

#: How much of the end of a log is read, in bytes.
_TAIL, _SUPERVISOR_TAIL = 4096, 1 << 16
_LINE_MAX = 300


def last_lines(log: Path, count: int = 3) -> list[str]:
    """Return the last ``count`` lines of a log that hold something, fit for a terminal."""
    lines = [line.strip() for line in _tail(log, _TAIL).split("\n")]
    return [printable(line, _LINE_MAX) for line in lines if line][-count:]


def last_exit(paths: Paths, name: str) -> str:
    """Say how ``name`` ended last, as "exit status 3" or "terminated by SIGKILL"; "" where it is not known.

    supervisord forgets the exit status of a process that ended within startsecs, but not in its log (process.py:
    ``exited: NAME (exit status 3; not expected)``).
    """
    found = re.findall(rf"exited: {re.escape(name)} \(([^;)]*)", _tail(paths.log / "supervisord.log", _SUPERVISOR_TAIL))
    return found[-1] if found else ""


def _tail(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
