"""How busy an instance is: two samples of its process and its counters, and what came between them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from portfleet.core.counters import Counters
from portfleet.core.status import Status
from portfleet.daemons.traffic import Traffic
from portfleet.linux import processes


@dataclass(frozen=True)
class Sample:
    """One moment: when (monotonic seconds), which process, its processor time (seconds) and resident memory (bytes).

    Both count its children too. ``accepted``, ``counters`` and ``bytes`` (in, out) are None if they are not counted.
    """

    at: float
    pid: int
    cpu: float
    memory: int
    accepted: int | None = None
    counters: Counters | None = None
    bytes: tuple[int, int] | None = None


@dataclass(frozen=True)
class Rates:
    """What came between two samples: ``cpu`` in per cent of one processor, the others a second; quantiles in µs.

    What is not counted is None; the quantiles are None if there was no request either.
    """

    cpu: float
    memory: int
    accepts: float | None = None
    requests: float | None = None
    p50: float | None = None
    p99: float | None = None
    bytes_in: float | None = None
    bytes_out: float | None = None


def sample(pid: int, status: Status | None, traffic: Traffic | None = None) -> Sample | None:
    """Take a sample of a process, with what it counts by its ``status``; None if it has ended.

    ``traffic`` is what the kernel tells of a daemon that does not count connects.
    """
    found = [process for one in processes.tree(pid) if (process := processes.read(one))]
    if not found:
        return None
    cpu, memory = sum(process.cpu for process in found), sum(process.memory for process in found)
    accepted, counters = (status.accepted, status.counters) if status is not None else (None, None)
    passed = None
    if status is not None and status.bytes_in is not None and status.bytes_out is not None:
        passed = (status.bytes_in, status.bytes_out)
    if traffic is not None:
        accepted = traffic.connects if accepted is None else accepted
        passed = passed or (traffic.bytes_in, traffic.bytes_out)
    return Sample(time.monotonic(), pid, cpu, memory, accepted, counters, passed)


def rates(before: Sample | None, after: Sample | None) -> Rates | None:
    """Return what came between; None if it is not the same process."""
    if before is None or after is None or before.pid != after.pid:
        return None
    seconds = max(after.at - before.at, 1e-3)
    cpu = 100 * max(0.0, after.cpu - before.cpu) / seconds
    accepts = None
    if before.accepted is not None and after.accepted is not None:
        accepts = max(0, after.accepted - before.accepted) / seconds
    bytes_in = bytes_out = None
    if before.bytes is not None and after.bytes is not None:
        bytes_in, bytes_out = (max(0, b - a) / seconds for a, b in zip(before.bytes, after.bytes, strict=True))
    if before.counters is None or after.counters is None:
        return Rates(cpu, after.memory, accepts, bytes_in=bytes_in, bytes_out=bytes_out)
    came = after.counters.since(before.counters)
    return Rates(
        cpu,
        after.memory,
        accepts,
        requests=came.requests / seconds,
        p50=_quantile(came, 0.5),
        p99=_quantile(came, 0.99),
        bytes_in=bytes_in,
        bytes_out=bytes_out,
    )


def _quantile(came: Counters, share: float) -> float | None:
    """Return the quantile; of the last bucket, which has no upper bound, the lower one, if it has one."""
    found = came.quantile(share)
    if math.isinf(found):
        return came.latency[-2][0] if len(came.latency) > 1 else None
    return found or None
