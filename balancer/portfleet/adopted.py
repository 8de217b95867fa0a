"""Processes of instances that supervisord has lost: it died or was restarted, they go on serving.

The watcher notes every process it knows in run/processes.json with its start time, so that a pid that was given to
somebody else is never taken for an instance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def start_time(pid: int) -> int | None:
    """Give when a process started, in clock ticks since boot (field 22 of /proc/PID/stat); None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def alive(path: Path) -> dict[str, int]:
    """Give {instance: pid} of every noted process that still is the one that was noted."""
    try:
        noted = {name: (int(pid), int(started)) for name, (pid, started) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {name: pid for name, (pid, started) in noted.items() if start_time(pid) == started}


def note(path: Path, processes: Mapping[str, tuple[int, int]]) -> None:
    """Replace what is noted by ``processes``: {instance: (pid, start time)}."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(processes))
    temporary.replace(path)
