"""Processes of instances that supervisord has lost: it died or was restarted, they go on serving.

The watcher notes every process it knows in run/processes.json with its start time, so that a pid that was given to
somebody else is never taken for an instance. The program file of an adopted instance is set aside (NAME.adopted), for
supervisord would start every program it finds, here on a port that is taken.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from portfleet.core.model import parse_instance
from portfleet.core.paths import Paths
from portfleet.linux.processes import parent, start_time
from portfleet.store import atomic, state_file


@dataclass(frozen=True)
class Process:
    """A process by its pid and when it ``started``, in clock ticks since boot (None: it had ended already)."""

    pid: int
    started: int | None

    @property
    def alive(self) -> bool:
        """Return whether it still runs."""
        return self.started is not None and start_time(self.pid) == self.started


def alive(path: Path) -> dict[str, int]:
    """Return {instance: pid} of every noted process that still is the one that was noted."""
    try:
        noted = state_file.parse(path.read_bytes())
    except (OSError, ValueError):
        return {}
    found = noted.items() if isinstance(noted, dict) else ()
    processes = {name: Process(*entry) for name, entry in found if _is_noted(name, entry)}
    return {name: process.pid for name, process in processes.items() if process.alive}


def _is_noted(name: str, entry: object) -> bool:
    """Return whether an entry of the file is one that `note` has written."""
    if parse_instance(name) is None or not isinstance(entry, list) or len(entry) != 2:
        return False
    return all(type(number) is int and number > 0 for number in entry)


def note(path: Path, processes: Mapping[str, tuple[int, int]]) -> None:
    """Replace what is noted by ``processes``: {instance: (pid, start time)}. Raises OSError."""
    atomic.replace(path, json.dumps(processes))


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


def lost(path: Path, names: Iterable[str], *, supervisor: int | None) -> dict[str, Process]:
    """Return those of ``names`` whose noted process runs and is no child of ``supervisor`` (None: there is none)."""
    found = alive(path)
    processes = {name: Process(found[name], start_time(found[name])) for name in names if name in found}
    return {name: one for name, one in processes.items() if one.alive and parent(one.pid) != supervisor}


def send(processes: Iterable[Process], number: signal.Signals) -> None:
    """Send a signal to those of ``processes`` that still run, and to no other that has one's pid by now."""
    for process in processes:
        if process.alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
