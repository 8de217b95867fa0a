"""A hook for tests that kill the tool at a named point: around every step, write of the journal, phase of an operation.

``PORTFLEET_FAULT=N`` sends SIGKILL to this process at its N-th point (from 1); ``PORTFLEET_FAULT=trace:FILE`` appends
the name of each point passed to FILE. ``PORTFLEET_FAULT_ONCE=FILE``, which processes of supervisord inherit, kills at
the point that FILE names and removes FILE before, so that the process that comes after lives. Unset, a point costs
two dictionary look-ups.
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

_numbers = itertools.count(1)


def point(name: str) -> None:
    """Pass the fault point ``name``; does not return when the environment asks for a kill here."""
    if once := os.environ.get("PORTFLEET_FAULT_ONCE"):
        _kill_once(Path(once), name)
    order = os.environ.get("PORTFLEET_FAULT")
    if order is None:
        return
    if order.startswith("trace:"):
        with Path(order.removeprefix("trace:")).open("a") as trace:
            trace.write(name + "\n")
    elif next(_numbers) == int(order):
        os.kill(os.getpid(), signal.SIGKILL)


def _kill_once(file: Path, name: str) -> None:
    try:
        if file.read_text().strip() != name:
            return
        file.unlink()
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
