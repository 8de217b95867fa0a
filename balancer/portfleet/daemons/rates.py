"""How busy an instance is: two samples of its process and its counters, and what came between them."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portfleet.core.counters import Counters, add
from portfleet.daemons.control import ControlError, ask
from portfleet.linux import processes

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """One moment: when (monotonic seconds), which process, its processor time (seconds) and resident memory (bytes).

    Both count its children too. ``accepted`` and ``counters`` are None for a daemon that is not ours.
    """

    at: float
    pid: int
    cpu: float
    memory: int
    accepted: int | None = None
    counters: Counters | None = None


@dataclass(frozen=True)
class Rates:
    """What came between two samples: ``cpu`` in per cent of one processor, the others a second; quantiles in µs.

    None is what nobody counts; the quantiles are None where there was no request either.
    """

    cpu: float
    memory: int
    accepts: float | None = None
    requests: float | None = None
    p50: float | None = None
    p99: float | None = None


def sample(pid: int, control: Path | None) -> Sample | None:
    """Take a sample of a process, and of its counters where it has a ``control`` socket; None where it has ended."""
    cpu = memory = 0.0
    try:
        for one in processes.tree(pid):
            # proc_pid_stat(5): after the name, which may hold anything, come the fields from the third on
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / _TICKS
            memory += int(fields[21]) * _PAGE
    except (OSError, IndexError):
        return None
    found: dict[str, Any] = {}
    if control is not None:
        try:
            answer = ask(control, "status")
            found = {"accepted": answer["accepted"], "counters": add([answer])}
        except (ControlError, KeyError, TypeError, ValueError):
            pass  # of a daemon of another version the processor counts all the same
    return Sample(time.monotonic(), pid, cpu, int(memory), **found)


def rates(before: Sample | None, after: Sample | None) -> Rates | None:
    """Return what came between; None where it is not the same process."""
    if before is None or after is None or before.pid != after.pid:
        return None
    seconds = max(after.at - before.at, 1e-3)
    cpu = 100 * max(0.0, after.cpu - before.cpu) / seconds
    if before.counters is None or after.counters is None or before.accepted is None or after.accepted is None:
        return Rates(cpu, after.memory)
    came = after.counters.since(before.counters)
    return Rates(
        cpu,
        after.memory,
        accepts=(after.accepted - before.accepted) / seconds,
        requests=came.requests / seconds,
        p50=_quantile(came, 0.5),
        p99=_quantile(came, 0.99),
    )


def _quantile(came: Counters, share: float) -> float | None:
    """Return the quantile; of the last bucket, which has no upper bound, the lower one."""
    found = came.quantile(share)
    return came.latency[-2][0] if math.isinf(found) else found or None
