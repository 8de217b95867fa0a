"""Processes of instances that supervisord has lost: it died or was restarted, they go on serving.

The watcher notes every process it knows in lib/processes.json with its start time, so that a pid that was given to
somebody else is never taken for an instance. The program file of an adopted instance is set aside (NAME.adopted), for
supervisord would start every program it finds, here on a port that is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from portfleet.core.model import parse_instance
from portfleet.core.paths import Paths
from portfleet.linux import processes
from portfleet.linux.processes import parent, start_time
from portfleet.store import atomic, state_file
from portfleet.supervise.members import Members, Process, leading, named


def noted(paths: Paths) -> Mapping[str, Process] | None:
    """Return the processes that were noted, also those that have ended; None if there is no file that can be read."""
    try:
        return _read(paths.processes, atomic.version(paths.processes))
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=1)
def _read(path: Path, _version: object) -> Mapping[str, Process]:
    """Return what a version of the file has, which is read once; raises OSError and ValueError."""
    found = state_file.parse(path.read_bytes())
    entries = found.items() if isinstance(found, dict) else ()
    return MappingProxyType({name: Process(*entry) for name, entry in entries if _is_noted(name, entry)})


def alive(paths: Paths, known: Mapping[str, int | None] = MappingProxyType({})) -> dict[str, int]:
    """Return {instance: pid} of every noted process that still is the one that was noted.

    Without a file, or where one has ended, of all that are `started` too: what came after it may not be noted, on a
    full disk say. ``known``: supervisord's processes, of which it is not looked whether they are there.
    """
    found = noted(paths) or {}
    there = {name: one.pid for name, one in found.items() if known.get(name) == one.pid or one.alive}
    return there if there.keys() == found.keys() != set() else started(paths) | there


def started(paths: Paths) -> dict[str, int]:
    """Return {instance: pid} of every process that a supervisord has started, noted or not; of several the eldest.

    All processes are looked at (`leading`), which takes 10 ms for some hundreds.
    """
    leaders = reversed(leading(processes.table()))
    return {name: pid for pid in leaders if (name := named(paths, pid)) is not None}


def _is_noted(name: str, entry: object) -> bool:
    """Return whether an entry of the file is one that `note` has written."""
    ours = parse_instance(name) is not None or name.startswith("portfleet-")  # an instance, or the data plane's own
    if not ours or not isinstance(entry, list) or len(entry) != 2:
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


def lost(paths: Paths, names: Iterable[str], *, supervisor: int | None) -> dict[str, Process]:
    """Return those of ``names`` whose noted process runs and is no child of ``supervisor`` (None: there is none)."""
    found = alive(paths)
    mine = {name: Process(found[name], start_time(found[name])) for name in names if name in found}
    return {name: one for name, one in mine.items() if one.alive and parent(one.pid) != supervisor}


def members(paths: Paths, leaders: Mapping[str, int], *, supervisor: int | None, ports: Mapping[int, str]) -> Members:
    """Look at all processes of all instances; see `Members`."""
    return Members(paths, leaders, noted=noted(paths) or {}, supervisor=supervisor, ports=ports)
