"""Compare portfleet-daemon with C epoll, uvloop and asyncio, and try it with many connections.

Prints tables and writes benchmarks/results/daemon.json. Exits 1 when a target is missed; --quick only shows that
everything runs, its numbers are too short to judge by.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.daemon.scenarios import connect_storm, idle_latency, idle_memory, slow_loris
from benchmarks.daemon.throughput import print_throughput, throughput
from benchmarks.lib.measure import save

Results = dict[str, Any]


def targets(results: Results) -> list[tuple[str, float, str, float, bool]]:
    """Each target that `results` speak of: (what, measured, "<=" or ">=", wanted, met)."""
    rows: list[tuple[str, float, str, float, bool]] = []

    def at_least(what: str, measured: float, wanted: float) -> None:
        rows.append((what, measured, ">=", wanted, measured >= wanted))

    def at_most(what: str, measured: float, wanted: float) -> None:
        rows.append((what, measured, "<=", wanted, measured <= wanted))

    if table := results.get("throughput"):
        for count, wanted in (("50", 0.77), ("1000", 0.80)):
            ours, uvloop = table[count]["portfleet"], table[count]["uvloop"]
            at_least(f"CPU of C epoll / ours, {count} busy", ours["cpu_ratio"], wanted)
            at_least(f"CPU of uvloop / ours, {count} busy", uvloop["us_per_request"] / ours["us_per_request"], 1.0)
    if memory := results.get("memory"):
        at_most("bytes per idle connection", memory["portfleet"]["bytes_per_connection"][0], 16)
    if idle := results.get("idle"):
        at_most(f"p99 with {idle['idle']:,} idle / with none", idle["p99_ratio"], 1.2)
    if loris := results.get("loris"):
        at_most(f"p99 with {loris['attackers']:,} slow-loris / with none", loris["p99_ratio"], 1.2)
        at_least("slow-loris closed, share", loris["closed"] / loris["attackers"], 1.0)
        at_most("last slow-loris closed / request time-out", loris["closed_after_s"][1] / loris["timeout_s"], 1.2)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench daemon", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each, to see that it runs")
    parser.add_argument("--rounds", type=int, help="how often each is measured (default 7; 1 if quick)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (default 3; 0.5 if quick)")
    parser.add_argument("--only", metavar="NAME", help="throughput, memory, idle, loris or storm")
    args = parser.parse_args()
    rounds = args.rounds or (1 if args.quick else 7)
    seconds = args.seconds or (0.5 if args.quick else 3.0)
    scale = 10 if args.quick else 1
    parts: dict[str, Callable[[], Results]] = {
        "throughput": lambda: throughput(rounds=rounds, seconds=seconds),
        "memory": lambda: {
            server: idle_memory(server, counts=tuple(count // scale for count in (1_000, 15_000, 19_800)))
            for server in ("portfleet", "uvloop", "asyncio")
        },
        "idle": lambda: idle_latency(idle=15_000 // scale, rounds=rounds, seconds=seconds),
        "loris": lambda: slow_loris(attackers=10_000 // scale, rounds=rounds, seconds=seconds),
        "storm": lambda: connect_storm(rate=2_000 // scale, rounds=rounds, seconds=seconds),
    }
    if args.only and args.only not in parts:
        parser.error(f"--only {args.only}: choose from {', '.join(parts)}")
    results: Results = {"rounds": rounds, "seconds": seconds}
    for name, measure in parts.items():
        if args.only in (None, name):
            print(f"{name} ...", file=sys.stderr)
            results[name] = measure()
    if "throughput" in results:
        print_throughput(results["throughput"])
    for name in ("memory", "idle", "loris", "storm"):
        if name in results:
            print(f"{name}: {results[name]}")
    rows = targets(results)
    for what, measured, relation, wanted, met in rows:
        print(f"{'met   ' if met else 'MISSED'} {what}: {measured:.3f} {relation} {wanted}")
    whole = not (args.quick or args.only)
    if whole:
        print(f"written: {save('daemon', results)}")
    return 1 if not args.quick and not all(row[-1] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
