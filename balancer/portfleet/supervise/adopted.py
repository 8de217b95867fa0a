"""Processes of instances that supervisord has lost: it died or was restarted, they go on serving.

The watcher notes every process it knows in run/processes.json with its start time, so that a pid that was given to
somebody else is never taken for an instance. The program file of an adopted instance is set aside (NAME.adopted), for
supervisord would start every program it finds, here on a port that is taken.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from portfleet.core.paths import Paths
from portfleet.linux.processes import parent, start_time


def alive(path: Path) -> dict[str, int]:
    """Return {instance: pid} of every noted process that still is the one that was noted."""
    try:
        noted = {name: (int(pid), int(started)) for name, (pid, started) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {name: pid for name, (pid, started) in noted.items() if start_time(pid) == started}


def note(path: Path, processes: Mapping[str, tuple[int, int]]) -> None:
    """Replace what is noted by ``processes``: {instance: (pid, start time)}. Raises OSError."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(processes))
    temporary.replace(path)


def set_aside(paths: Paths, names: Iterable[str]) -> list[str]:
    """Keep supervisord from starting programs whose process goes on without it; gives those whose file there was."""
    moved = []
    for name in names:
        try:
            (paths.programs / f"{name}.conf").rename(paths.programs / f"{name}.adopted")
        except FileNotFoundError:
            continue
        moved.append(name)
    return moved


def end(paths: Paths, names: Iterable[str], *, supervisor: int | None, seconds: float, hurry: bool = False,
        clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
    """Stop those of ``names`` that are not children of ``supervisor``: SIGTERM, and SIGKILL after ``seconds``.

    ``hurry`` tells a daemon that drains a second time, which ends it.
    """
    alive = _running(paths.processes, names)
    lost = {pid: started for pid, started in alive.items() if parent(pid) != supervisor}
    for _ in range(2 if hurry else 1):
        _send(lost, signal.SIGTERM)
    deadline = clock() + seconds
    while any(start_time(pid) == started for pid, started in lost.items()):
        if clock() > deadline:
            _send(lost, signal.SIGKILL)
            deadline += seconds
        time.sleep(0.02)
    for name in names:
        (paths.programs / f"{name}.adopted").unlink(missing_ok=True)


def _running(path: Path, names: Iterable[str]) -> dict[int, int]:
    """Return {pid: start time} of the noted processes among ``names`` that still run."""
    found = alive(path)
    pids = [found[name] for name in names if name in found]
    return {pid: started for pid in pids if (started := start_time(pid)) is not None}


def _send(processes: Mapping[int, int], number: int) -> None:
    for pid, started in processes.items():
        if start_time(pid) == started:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
