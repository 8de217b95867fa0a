"""Ways to hold 100 to 150,000 connections on one echo task: threads, pools, loops, and fleets; 1 % of them active.

Each design is a small program in C (benchmarks/designs), each fleet the real portfleet behind nftables; clients are in
another box. 50 to 1,500 connections ask 5,000 times a second in an open loop, the others say nothing. Every turn of a
design is beside a turn of a reference, one epoll loop in C with 50 connections and none idle, measured in the same
seconds: parts measured at other times, and on other machines, can be compared by the ratio. Then a client whose
requests block their thread for 50 ms, four a second; with 10,000 connections also what a release costs, and a process
that is killed. A part is one number of connections; parts are merged into
benchmarks/results/designs.json. Servers have one CPU, the load the other, and both a real-time priority while latency
is measured, so that what else runs on the machine does not count. Needs root, libevent-dev and a C compiler; 20 to
60 s for each design.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from statistics import median
from typing import Any

from benchmarks.designs.contenders import DESIGNS, FLEETS, PORT, REFERENCE, Contender, Fleet, processes, running
from benchmarks.lib.boxes import (
    ahead,
    cpu_seconds,
    ended,
    entries,
    held,
    kernel_bytes,
    load,
    resident,
    sockets_of,
    worst,
)
from benchmarks.lib.measure import Load, environment, merge

RATE, ACTIVE, LEAST_ACTIVE = 5_000, 0.01, 50
ACTIVE_FIRST, SLOW_FIRST = 60_000, 70_000  # client addresses, apart from those of idle connections
SLOW_ID, SLOW_RATE = 0xE0000000, 4
CONNECTIONS = (100, 10_000, 50_000, 150_000)
BROKEN_AT = 10_000  # where a release and a crash are measured
#: Not measured there, and why.
LEFT_OUT = {
    ("threads", 50_000): "needs more threads than kernel.pid_max (32,768) allows",
    ("threads", 150_000): "needs more threads than kernel.pid_max (32,768) allows",
}
Found = dict[str, Any]


def asking(made: Contender, active: int, **flags: Any) -> Load:
    """Start the active clients."""
    all_flags = {"mode": "open", "connections": active, "rate": RATE, "first": ACTIVE_FIRST, **flags}
    one = load(made.boxes, PORT, **all_flags)
    ahead([one.process.pid], priority=2)
    return one


def turn(made: Contender, active: int, seconds: float) -> Found:
    """Return what active clients met, and the CPU of all processes for each request in microseconds."""
    pids = made.pids()
    with asking(made, active, seconds=seconds) as one:
        before = cpu_seconds(pids)
        said = one.result()
        used = cpu_seconds(pids) - before
    if said["errors"]:
        raise SystemExit(f"a reply is lost or wrong: {said}")
    return {**said["latency_us"], "cpu_us": used / max(1, said["replies"] - active) * 1e6, "busy": used / seconds}


def rounds(made: Contender, beside: Contender, active: int, number: int, seconds: float) -> list[dict[str, Found]]:
    """Return what both met in turn."""
    found = []
    for one in range(number):
        first = {"design": (made, active), "reference": (beside, LEAST_ACTIVE)}
        order = list(first)[:: 1 if one % 2 else -1]
        found.append({name: turn(*first[name], seconds if name == "design" else seconds / 2) for name in order})
    return found


def slow(made: Contender, active: int, seconds: float) -> Found:
    """Return what active clients met beside one whose requests block."""
    flags: Found = {"mode": "open", "connections": 1, "rate": SLOW_RATE, "first_id": SLOW_ID}
    with load(made.boxes, PORT, first=SLOW_FIRST, sources=1, **flags) as one:
        with asking(made, active, seconds=seconds) as others:
            said = others.result()
        one.result(stop=True)
    return {**said["latency_us"], "over_10ms": said["over_10ms"] / said["requests"]}


def released(made: Contender, parts: list[Load], active: int, own: int) -> Found:
    """Release under load; return connections lost and left, and the worst latency in ms, in it and before it.

    ``own`` are the sockets of all processes before clients came.
    """
    with asking(made, active, timeline_ms=5) as one:
        time.sleep(3)
        began = time.monotonic()
        old = made.release()
        took = time.monotonic() - began
        time.sleep(1)  # what follows a release by itself
        left = max(0, sum(map(sockets_of, old)) - own)
        said = one.result(stop=True)
    lost = ended(parts) + said["closed"] + said["reset"]
    end = began + took + 1
    return {
        "lost": lost, "left": left, "seconds": took, "worst_ms": worst(said, began, end),
        "calm_ms": worst(said, began - 3, began),
    }  # fmt: skip


def killed(made: Contender, connections: int) -> Found:
    """Kill the fullest process; return how many of so many connections ended."""
    with held(made.boxes, PORT, connections) as parts:
        victim = max(made.pids(), key=sockets_of)
        os.kill(victim, signal.SIGKILL)
        time.sleep(1)
        return {"lost": ended(parts)}


def part(name: str, connections: int, beside: Contender, *, quick: bool) -> Found:
    """Return all of one design with so many connections."""
    active = max(LEAST_ACTIVE, int(connections * ACTIVE))
    number, seconds = (1, 1.0) if quick else (4, 1.5)
    with running(name, connections) as made:
        turn(made, LEAST_ACTIVE, 0.3)
        user, kernel, own = resident(made.pids()), kernel_bytes(), sum(map(sockets_of, made.pids()))
        idle = connections - active
        with held(made.boxes, PORT, idle) as parts:
            memory = {
                "user": (resident(made.pids()) - user) / idle, "kernel_both_ends": (kernel_bytes() - kernel) / idle,
                "conntrack": entries(made.boxes.host) if isinstance(made, Fleet) else 0,
                "descriptors": max(map(sockets_of, made.pids())), "process": user / len(made.pids()),
            }  # fmt: skip
            ahead(made.pids(), priority=1)
            found = {
                "processes": processes(name, connections), "active": active, "memory": memory,
                "rounds": rounds(made, beside, active, number, seconds), "slow": slow(made, active, 2 * seconds),
            }  # fmt: skip
            broken = connections == BROKEN_AT or quick
            if broken:
                found["release"] = released(made, parts, active, own)
            elif lost := ended(parts):
                raise SystemExit(f"{name}: {lost} idle connections ended")
        if broken:
            found["crash"] = killed(made, idle)
    return {**found, "environment": environment()}


def show(name: str, connections: int, found: Found) -> None:
    """Print a line."""
    middle = {key: median(one["design"][key] for one in found["rounds"]) for key in ("p50", "p99", "p999", "cpu_us")}
    beside = median(one["design"]["p99"] / one["reference"]["p99"] for one in found["rounds"])
    print(
        f"{connections:>7,} {name:<13} p50 {middle['p50']:7.0f} p99 {middle['p99']:7.0f} ({beside:5.2f} of reference) "
        f"p99.9 {middle['p999']:7.0f} CPU {middle['cpu_us']:6.1f} us  memory {found['memory']['user']:7.0f} + "
        f"{found['memory']['kernel_both_ends']:7.0f} B  slow: {found['slow']['over_10ms']:.1%} over 10 ms  "
        + "  ".join(f"{what} {found[what]}" for what in ("release", "crash") if what in found),
        flush=True,
    )


def main() -> int:
    names = [*DESIGNS, *FLEETS]
    parser = argparse.ArgumentParser(prog="script/bench designs", description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS, help="(default: %(default)s)")
    parser.add_argument("--designs", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="200 connections, to see that it runs")
    options = parser.parse_args()
    with running(REFERENCE, LEAST_ACTIVE) as beside:
        ahead(beside.pids(), priority=1)
        for connections in (200,) if options.quick else options.connections:
            for name in options.designs:
                if why := LEFT_OUT.get((name, connections)):
                    print(f"{connections:>7,} {name:<13} left out: {why}")
                    found: Found = {"left_out": why}
                else:
                    found = part(name, connections, beside, quick=options.quick)
                    show(name, connections, found)
                if not options.quick:
                    merge("designs", {str(connections): {name: found}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
