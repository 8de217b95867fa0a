"""What an instance left behind when it ended: how it ended, and the last lines of its log."""

from __future__ import annotations

import os
import re
from pathlib import Path

from portfleet.core.paths import Paths
from portfleet.core.printable import printable
from portfleet.core.value import value

#: How much of the end of a log is read, in bytes.
_TAIL, _SUPERVISOR_TAIL = 4096, 1 << 16
_LINE_MAX = 300


def last_lines(log: Path, count: int = 3) -> list[str]:
    """Return the last ``count`` lines of a log that hold something, fit for a terminal."""
    lines = [line.strip() for line in _tail(log, _TAIL).split("\n")]
    return [printable(line, _LINE_MAX) for line in lines if line][-count:]


def ended_early(paths: Paths, name: str, seconds: float) -> str:
    """Return in words that ``name`` did not live for ``seconds`` after it was ready, with its last words."""
    log = " | ".join(last_lines(paths.log_of(name)))
    return f"ended within {seconds:g} s of being ready (min_ready)" + f"; its last words: {log}" * bool(log)


def last_signs(paths: Paths, name: str) -> str:
    """Return in words how ``name`` ended last and its last words, to follow what became of it; "" if none are known."""
    ended, log = last_exit(paths, name), " | ".join(last_lines(paths.log_of(name)))
    return f", ended last with {ended}" * bool(ended) + f"; its last words: {log}" * bool(log)


@value
class Ended:
    """How a process ended: with an exit ``status``, or by a ``signal``, as "SIGKILL" (then ``status`` is None)."""

    status: int | None
    signal: str = ""

    def __str__(self) -> str:
        return f"terminated by {self.signal}" if self.status is None else f"exit status {self.status}"


def last_exit(paths: Paths, name: str, pid: int | None = None) -> Ended | None:
    """Return how ``name``, or its process ``pid``, ended last; None if that is not known.

    supervisord forgets the exit status of a process that ended within startsecs, but not in its log (process.py and
    decode_wait_status of options.py: ``exited: NAME (exit status 3; not expected)``, ``(terminated by SIGSEGV (core
    dumped); not expected)``).
    """
    told = rf"exited: {re.escape(name)} \((?:exit status (-?\d+)|terminated by ([^;\n]+)); "
    text = _tail(paths.log / "supervisord.log", _SUPERVISOR_TAIL)
    if pid is not None:
        text = text.rpartition(f"spawned: '{name}' with pid {pid}\n")[2].partition(f"spawned: '{name}'")[0]
    found = re.findall(told, text)
    if not found:
        return None
    status, signal = found[-1]
    return Ended(int(status)) if status else Ended(None, signal)


def _tail(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
