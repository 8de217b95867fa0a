"""Run servers and load for a benchmark: start, pin, wait for, stop; and describe the machine.

The server has the first of the allowed CPUs and the load the second, so neither takes time from the other. Numbers
of different runs are not comparable on a shared machine; those of servers taken in turn within one run are.
"""

import contextlib
import ctypes
import json
import os
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lib.build import ROOT, load_generator

CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, CLIENT_CPU = CPUS[0], CPUS[-1]
START_SECONDS = 15.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)


def wait_until(ready: Callable[[], bool], *, what: str, seconds: float = START_SECONDS) -> None:
    """Return when `ready()` is true; raises TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


def free_port() -> int:
    """Return a TCP port below the ephemeral range, so that no outgoing connection can take it meanwhile."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in range(low - 1 - os.getpid() % 4096, 1024, -1):
        with socket.socket(socket.AF_INET6) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("::", port))
            return port
    raise OSError("no free TCP port below the ephemeral range")


def spawn(command: Sequence[str | Path], *, cpu: int, **options: Any) -> subprocess.Popen[str]:
    """Start `command` on `cpu`; the kernel kills it when this process dies, so a broken run leaves nothing."""

    def prepare() -> None:
        os.sched_setaffinity(0, {cpu})
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    # safe here: benchmarks start no threads, and prctl has no other way in before exec
    return subprocess.Popen(command, preexec_fn=prepare, text=True, cwd=ROOT, **options)  # noqa: PLW1509


@contextlib.contextmanager
def serving(command: Sequence[str | Path], port: int, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A server that accepts on `port`, killed at the end. Raises RuntimeError when it exits instead."""
    process = spawn(command, cpu=SERVER_CPU, **options)

    def accepts() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(map(str, command))}: exit code {process.returncode}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(accepts, what=f"{command[0]} accepts on port {port}")
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Load:
    """One running load generator; `flags` are its own (`load --help`), underscores for hyphens."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, port: int, *, pids: Sequence[int] = (), **flags: object) -> "Load":
        """Start it against 127.0.0.1:`port`, charging CPU time to `pids`; returns when every connection had a reply."""
        words: list[str | Path] = [load_generator(), "--port", str(port)]
        for flag, value in flags.items():
            words += ["--" + flag.replace("_", "-"), str(value)]
        for pid in pids:
            words += ["--pid", str(pid)]
        load = cls(spawn(words, cpu=CLIENT_CPU, stdout=subprocess.PIPE))
        load.event("connected")
        return load

    def event(self, name: str) -> dict[str, Any]:
        """Wait for the next line, which must be event `name`; raises RuntimeError when it is not."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"event": "end of output"}
        if found["event"] != name:
            self.process.kill()
            raise RuntimeError(f"the load generator said {found}, not {name}")
        return found

    def read_now(self) -> None:
        """Let mode unread begin to read its replies."""
        self.process.send_signal(signal.SIGUSR1)

    def result(self, *, stop: bool = False) -> dict[str, Any]:
        """Wait for the result line, asking for it now if `stop`; keys as printed by benchmarks/lib/report.c."""
        if stop:
            self.process.send_signal(signal.SIGTERM)
        found = self.event("result")
        self.process.wait()
        return found

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def run_load(port: int, *, pids: Sequence[int] = (), **flags: object) -> dict[str, Any]:
    """One whole run of the load generator; returns its result line."""
    with Load.start(port, pids=pids, **flags) as load:
        return load.result()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes, counted page by page (proc(5), smaps_rollup).

    statm would be cheaper, but since Linux 6.2 it reads counters that lag by some 64 pages for each CPU.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/smaps_rollup has no Rss")


def environment() -> dict[str, Any]:
    """What the numbers depend on: CPU, kernel, Python, versions, load of the machine at the time."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip(),
        "cpu": model,
        "cpus": len(CPUS),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
    }


def save(name: str, results: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json with the environment; returns its path."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")
    return path


def merge(name: str, results: dict[str, Any]) -> Path:
    """Put parts into benchmarks/results/NAME.json beside those that are there; returns its path.

    Dictionaries two deep are merged, {group: {part: found}}, and each `found` has an environment of its own.
    """
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    there = json.loads(path.read_text()) if path.exists() else {}
    for group, parts in results.items():
        there.setdefault(group, {}).update(parts)
    path.write_text(json.dumps(there, indent=1) + "\n")
    return path
