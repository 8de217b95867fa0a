"""What clients notice of interpreters that start beside instances, with short time slices and with the usual ones.

Four daemons are asked 5,000 times a second by 2,000 established connections, in an open loop, by load generators with a
real-time priority. Again and again four interpreters start and load what a daemon loads, in turn beside daemons with
usual and with short slices; and for comparison, nothing starts. Prints the worst latency of each such time, and the
99th percentile of the worst latencies of its 5-millisecond parts. Writes benchmarks/results/fleet-slices.json. Needs
root; two minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median, quantiles
from typing import Any

from benchmarks.lib.build import ROOT, load_generator
from benchmarks.lib.measure import free_port, save, wait_until

sys.path.insert(0, str(ROOT / "tests"))

from portfleet.linux.scheduling import SHORT_SLICE, set_slice
from portfleet.linux.sockdiag import listeners
from support.slices import slice_of

DAEMONS, CONNECTIONS, RATE, SLICE_MS = 4, 2_000, 5_000, 5
_BIN = ROOT / ".venv" / "bin"
_LOADS = "import portfleet_daemon.server, portfleet_daemon.__main__"
#: Seconds before, without starts, and after each time.
_BEFORE, _STILL, _AFTER = 0.3, 0.5, 0.4


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """Kill a process at the end."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def daemons(stack: ExitStack) -> dict[int, int]:
    """Start the daemons; return their processes by port."""
    found: dict[int, int] = {}
    for _ in range(DAEMONS):
        port = free_port()
        words = [str(_BIN / "portfleet-daemon"), "--port", str(port), "--handler", "portfleet_daemon.handlers:echo"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        found[port] = stack.enter_context(ended(process)).pid
        wait_until(partial(_listens, port), what=f"port {port}")
    return found


def _listens(port: int) -> bool:
    return any(one.port == port for one in listeners())


def load(stack: ExitStack, port: int, seconds: float) -> "subprocess.Popen[str]":
    """Return a load generator that asks the daemon on ``port`` its share of the requests, once it is connected."""
    words = {"--mode": "open", "--host": "127.0.0.1", "--port": port, "--connections": CONNECTIONS // DAEMONS,
             "--rate": RATE // DAEMONS, "--seconds": int(seconds), "--timeline-ms": SLICE_MS}  # fmt: skip
    flags = [str(part) for pair in words.items() for part in pair]
    urgent = ["chrt", "-f", "10", "taskset", "-c", "0", str(load_generator()), *flags]
    asking = stack.enter_context(ended(subprocess.Popen(urgent, stdout=subprocess.PIPE, text=True)))
    assert asking.stdout is not None
    assert json.loads(asking.stdout.readline())["event"] == "connected"
    return asking


def start_four() -> None:
    """Start four interpreters at once, and wait for them."""
    started = [subprocess.Popen([_BIN / "python", "-c", _LOADS]) for _ in range(DAEMONS)]
    assert not any(one.wait() for one in started)


def measured(times: int) -> dict[str, list[dict[str, float]]]:
    """Return, by kind, what clients met in each of ``times``: ``worst`` and ``p99`` in ms, and its ``seconds``."""
    spans: list[tuple[str, float, float]] = []
    with ExitStack() as stack:
        pids = daemons(stack)
        usual = slice_of(next(iter(pids.values())))
        assert usual, "this kernel has no time slices of a process's own"
        asking = [load(stack, port, 1 + times * 4.5) for port in pids]
        time.sleep(1)
        for _ in range(times):
            for kind, seconds in (("usual", usual), ("short", SHORT_SLICE), ("nothing starts", usual)):
                for pid in pids.values():
                    set_slice(pid, seconds)
                time.sleep(_BEFORE)
                began = time.monotonic()
                if kind == "nothing starts":
                    time.sleep(_STILL)
                else:
                    start_four()
                spans.append((kind, began, time.monotonic()))
                time.sleep(_AFTER)
        slices: list[tuple[float, float]] = []
        for one in asking:
            assert one.stdout is not None
            result = json.loads(one.stdout.readline())
            slices += [(result["monotonic"] + ms / 1e3, worst / 1e3) for ms, _, worst in result["timeline"]]
    assert spans[-1][2] < max(slices)[0], "the starts took longer than the load"
    found: dict[str, list[dict[str, float]]] = {}
    for kind, began, until in spans:
        met = [worst for at, worst in slices if began - SLICE_MS / 1e3 < at < until]
        found.setdefault(kind, []).append(
            {"worst": max(met), "p99": quantiles(met, n=100)[98], "seconds": until - began}
        )
    return found


def table(found: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Yield the lines of what was measured: medians, and of the worst the range."""
    yield f"{'slices':<16} {'worst ms':>9} {'range':>14} {'p99 ms':>8} {'starts s':>9}"
    for kind, some in found.items():
        worst, p99, seconds = (sorted(one[key] for one in some) for key in ("worst", "p99", "seconds"))
        span = f"{worst[0]:.1f} to {worst[-1]:.1f}"
        yield f"{kind:<16} {median(worst):>9.2f} {span:>14} {median(p99):>8.2f} {median(seconds):>9.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=25)
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.2f}")
    found: dict[str, Any] = measured(options.times)
    print("\n".join(table(found)))
    save("fleet-slices", {"connections": CONNECTIONS, "rate": RATE, "times": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
