"""A hook for tests that kill the tool at a named point: before and after every step and every write of the journal.

``PORTFLEET_FAULT=N`` sends SIGKILL to this process at its N-th point (from 1); ``PORTFLEET_FAULT=trace:FILE`` appends
the name of each point passed to FILE. Unset, a point costs one dictionary look-up.
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

_numbers = itertools.count(1)


def point(name: str) -> None:
    """Pass the fault point ``name``; does not return when the environment asks for a kill here."""
    order = os.environ.get("PORTFLEET_FAULT")
    if order is None:
        return
    if order.startswith("trace:"):
        with Path(order.removeprefix("trace:")).open("a") as trace:
            trace.write(name + "\n")
    elif next(_numbers) == int(order):
        os.kill(os.getpid(), signal.SIGKILL)
