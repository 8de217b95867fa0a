"""What the rules cost a packet: connects and requests by these rules and by those of another version, in turn.

Two boxes of namespaces, each with four instances; one is loaded by this tree, the other from a file that `nft list
ruleset` printed on a box where another version had applied the fleet.toml that `--config` prints. Without a watcher, so
without the keeper. Short turns alternate, so that a disturbance meets both, and quartiles are compared. Prints a table,
writes benchmarks/results/dataplane-path.json, exits 1 if these rules take over 1 % longer. Needs root; two minutes.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.lib.build import ROOT
from benchmarks.lib.measure import CPUS, save

sys.path.insert(0, str(ROOT / "tests"))

from support.netns import network_of
from support.plane import ECHO, Plane, plane
from support.sandbox import HOST4, client4

WORST = 1.01


def connects(made: Plane, count: int, first: int) -> list[float]:
    """Return the microseconds that each of ``count`` connects takes; each is closed by a reset."""
    took = []
    with network_of(made.boxes.clients):
        for number in range(first, first + count):
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.bind((client4(number * 31 % 120_000), 0))
                began = time.perf_counter()
                connection.connect((HOST4, 7000))
                took.append((time.perf_counter() - began) * 1e6)
    return took


def requests(connection: socket.socket, count: int) -> list[float]:
    """Return the microseconds that each of ``count`` requests takes."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        connection.send(b"x\n")
        connection.recv(64)
        took.append((time.perf_counter() - began) * 1e6)
    return took


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench dataplane/path", description=__doc__)
    parser.add_argument("--against", type=Path, help="the other version's rules, as nft text (default: these again)")
    parser.add_argument("--config", action="store_true", help="print the fleet.toml that is loaded")
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    if args.config:
        print(ECHO, end="")
        return 0
    found: dict[str, dict[str, list[float]]] = {kind: {"new": [], "old": []} for kind in ("connect", "request")}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = {}
        for name in ("new", "old"):
            one = made[name] = stack.enter_context(plane(folder / f"{name}.json"))
            one.load(ECHO)
            if name == "old" and args.against:
                one.boxes.host.run("nft", "-f", "-", text="flush ruleset\n" + args.against.read_text())
            one.serve()
        os.sched_setaffinity(0, {CPUS[-1]})
        held = {}
        for name, one in made.items():
            with network_of(one.boxes.clients):
                held[name] = stack.enter_context(socket.create_connection((HOST4, 7000)))
        for number in range(args.rounds):
            for name in ("new", "old") if number % 2 else ("old", "new"):
                found["connect"][name].append(statistics.quantiles(connects(made[name], 100, number * 100), n=4)[0])
                found["request"][name].append(statistics.quantiles(requests(held[name], 300), n=4)[0])
    results = {}
    for kind, times in found.items():
        ratios = [new / old for new, old in zip(times["new"], times["old"], strict=True)]
        results[kind] = {
            "new_us": statistics.median(times["new"]),
            "old_us": statistics.median(times["old"]),
            "new_per_s": 1e6 / statistics.median(times["new"]),
            "old_per_s": 1e6 / statistics.median(times["old"]),
            "ratio": statistics.median(ratios),
            "ratio_of_quickest": min(times["new"]) / min(times["old"]),
        }
        print(kind, {key: round(value, 4) for key, value in results[kind].items()})
    if args.against:
        print(save("dataplane-path", results))
    return 0 if all(one["ratio"] <= WORST for one in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
