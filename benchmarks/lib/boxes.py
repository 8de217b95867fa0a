"""What a benchmark looks at in boxes of namespaces: processes by their command line, their CPU, memory and sockets."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.lib.build import ROOT
from benchmarks.lib.measure import SERVER_CPU, Load, resident_bytes

sys.path.insert(0, str(ROOT / "tests"))

from support.netns import network_of
from support.sandbox import HOST4, Box, Sandbox, client4

#: What a connection takes of the kernel's memory is in these lines of /proc/meminfo.
_KERNEL = ("SUnreclaim", "KernelStack", "PageTables")
_SCHED = 2  # the clock of a process's CPU time is (~pid << 3) | 2: linux/posix-timers.h, CPUCLOCK_SCHED
PART = 18_000  # connections of one load generator; the machine may grant it no more than 20,000 descriptors
SOURCES = 2_000  # addresses of one part


@contextmanager
def on_server_cpu() -> Iterator[None]:
    """Have what is started in the block run on the servers' CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def pids_in(box: Box, *words: str) -> set[int]:
    """Return the processes of a box, as seen from outside, whose command line has all of ``words``."""
    home = os.readlink(f"/proc/{box.pid}/ns/pid")
    found = set()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            inside = line[0] != "nsenter" and os.readlink(f"/proc/{pid}/ns/pid") == home
            if inside and all(any(part.endswith(word) for part in line) for word in words):
                found.add(pid)
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have used, threads that have ended included; 0 for those that are gone."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | _SCHED)
    return total


def ahead(pids: Iterable[int], *, priority: int) -> None:
    """Set a real-time priority for all threads of processes: waiting for other programs is not what is measured."""
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(int(task), os.SCHED_RR, os.sched_param(priority))


def favoured(pids: Iterable[int]) -> None:
    """Set the scheduler's greatest weight for processes and their sessions, by which it shares a CPU out (sched(7)).

    Unlike a real-time priority it leaves the kernel's own threads their turn, where servers take all of a CPU.
    """
    for pid in pids:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, -20)
            Path(f"/proc/{pid}/autogroup").write_text("-20")


def sockets_of(pid: int) -> int:
    """Return how many sockets a process has open, listeners included; 0 for one that is gone."""
    number = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                number += os.readlink(entry.path).startswith("socket:")
    return number


def resident(pids: Iterable[int]) -> int:
    """Return the resident memory of processes in bytes."""
    return sum(resident_bytes(pid) for pid in pids)


def kernel_bytes() -> int:
    """Return the kernel's unreclaimable memory, stacks of threads and page tables, in bytes, of the whole machine."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(words[1]) * 1024 for words in lines if words[0].rstrip(":") in _KERNEL)


def entries(box: Box) -> int:
    """Return the entries of a box's connection tracking."""
    return int(box.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count").stdout)


def load(boxes: Sandbox, port: int, *, first: int = 0, sources: int = SOURCES, **flags: Any) -> Load:
    """Start a load generator in the clients' box, from ``sources`` addresses from client ``first`` on."""
    with network_of(boxes.clients):
        return Load.start(port, host=HOST4, source=client4(first), sources=sources, **flags)


@contextmanager
def held(boxes: Sandbox, port: int, connections: int) -> Iterator[list[Load]]:
    """Hold that many connections that say nothing, in parts."""
    parts: list[Load] = []
    try:
        while connections > 0:
            number = min(PART, connections)
            parts.append(load(boxes, port, first=SOURCES * len(parts), mode="idle", connections=number))
            connections -= number
        yield parts
    finally:
        for part in parts:
            part.__exit__()


def ended(parts: Iterable[Load]) -> int:
    """Stop loads that hold connections; return how many of these the servers had closed or reset."""
    said = [part.result(stop=True) for part in parts]
    return sum(one["closed"] + one["reset"] for one in said)


def worst(result: dict[str, Any], began: float, end: float) -> float:
    """Return the worst latency in ms of requests that were due between two moments of the monotonic clock."""
    slices = {result["monotonic"] + ms / 1e3: most / 1e3 for ms, _, most in result["timeline"]}
    return max((most for at, most in slices.items() if began <= at <= end), default=0.0)
