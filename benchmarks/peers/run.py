"""portfleet, HAProxy, nginx, iptables and a direct connection in turn: speed, a release, a killed daemon.

Daemons in C behind each, in boxes of namespaces; clients are in another box. `speed`: one connection and 50 that ask
without pause, and short connections, 1 and 50 at a time, to one daemon: several that share a CPU would wait for each
other; ratios to the direct way are taken within each round. The others have four.
`release`: 2,000 established connections ask 5,000 times a second while new ones are led to four other daemons, by a
cutover with hand-off, by a reload, by new rules. `kill`: a client connects 400 times a second from as many addresses
while one of the four is killed. Servers have one CPU, the load the other. Parts are merged into
benchmarks/results/peers.json. Needs root, haproxy, nginx, iptables and a C compiler; speed takes two minutes, the
others half a minute a round.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.lib.boxes import favoured, load, pids_in, sockets_of, worst
from benchmarks.lib.measure import environment, merge
from benchmarks.peers.ways import Direct, Way, ways

from support.netns import network_of
from support.sandbox import HOST4, client4

#: {what is measured: the load that shows it}
LOADS: dict[str, Mapping[str, Any]] = {
    "requests at 1": {"connections": 1},
    "requests at 50": {"connections": 50},
    "connects at 1": {"mode": "storm", "connections": 1, "rate": 1_000_000},
    "connects at 50": {"mode": "storm", "connections": 50, "rate": 1_000_000},
}
CONNECTIONS, RATE, DAEMONS = 2_000, 5_000, 4
CONNECTS, WINDOW = 400, 3.0  # a second, seconds
Found = dict[str, Any]


def ahead_of_others(found: Mapping[str, Way]) -> None:
    """Have what else runs on the machine wait for all that is in the boxes, and for the load."""
    favoured({os.getpid(), *(pid for way in found.values() for pid in pids_in(way.boxes.host))})


def speed(found: dict[str, Way], *, rounds: int, seconds: float) -> Found:
    """Return for each way and load what each round found."""
    said: Found = {name: {"rounds": {what: [] for what in LOADS}} for name in found}
    ahead_of_others(found)
    for number in range(rounds):
        for what, flags in LOADS.items():
            for name in list(found)[:: 1 if number % 2 else -1]:
                with load(
                    found[name].boxes, found[name].port, sources=250, warmup=0.1, seconds=seconds, **flags
                ) as one:
                    result = one.result()
                if result["errors"]:
                    raise SystemExit(f"{name}: {result}")
                per_s = {"per_s": result["replies"] / (result["seconds"] + 0.1)}
                said[name]["rounds"][what].append(per_s | result["latency_us"])
    return said


def released(way: Way) -> Found:
    """Release under load; return connections lost, those left on the old daemons, and the worst latency in ms."""
    own = {pid: sockets_of(pid) for pid in way.daemons()}
    flags: Found = {"mode": "open", "connections": CONNECTIONS, "rate": RATE, "timeline_ms": 5}
    with load(way.boxes, way.port, sources=250, **flags) as one:
        time.sleep(3)
        old, began = way.daemons(), time.monotonic()
        way.release()
        end = time.monotonic() + 2  # what follows a release by itself
        time.sleep(2)
        left = sum(max(0, sockets_of(pid) - own[pid]) for pid in old)
        said = one.result(stop=True)
    calm, during = worst(said, began - 3, began), worst(said, began, end)
    return {
        "lost": said["closed"] + said["reset"] + said["lost"], "left": left, "worst_ms": during, "calm_ms": calm,
        "extra_ms": during - calm,
    }  # fmt: skip


def killed(way: Way) -> Found:
    """Kill one of four daemons under connects; return how many failed, and until when in ms after the kill."""
    outcomes: list[tuple[float, bool]] = []
    began = time.monotonic()
    at, victim = began + 0.5, min(way.daemons())
    with network_of(way.boxes.clients):
        for number in range(int(CONNECTS * WINDOW)):
            time.sleep(max(0.0, began + number / CONNECTS - time.monotonic()))
            if victim and time.monotonic() >= at:
                os.kill(victim, signal.SIGKILL)
                at, victim = time.monotonic(), 0
            outcomes.append((time.monotonic(), _asked(way.port, number)))
    failed = [when for when, ok in outcomes if not ok]
    last = max(failed, default=at)
    return {"failed": len(failed), "until_ms": (last - at) * 1e3, "of": sum(when >= at for when, _ in outcomes)}


def _asked(port: int, number: int) -> bool:
    """Connect from one of 400 addresses and ask; tell whether the answer came."""
    with socket.socket() as one:
        one.settimeout(1)
        one.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        try:
            one.bind((client4(number % 400), 0))
            one.connect((HOST4, port))
            one.sendall(b"x\n")
            return one.recv(16) == b"x\n"
        except OSError:
            return False


def print_speed(found: Found) -> None:
    """Print medians, and of the ratios to the direct way within each round."""
    for what in LOADS:
        direct = found["direct"]["rounds"][what]
        for name, one in found.items():
            mine = one["rounds"][what]
            middle = {key: median(turn[key] for turn in mine) for key in ("per_s", "p50", "p99")}
            ratio = median(turn["per_s"] / base["per_s"] for turn, base in zip(mine, direct, strict=True))
            print(
                f"{what:<15} {name:<10} {middle['per_s']:8,.0f}/s ({ratio:.2f})  "
                f"p50 {middle['p50']:6.0f} p99 {middle['p99']:6.0f}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench peers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=("speed", "release", "kill"), default=("speed", "release", "kill"))
    parser.add_argument("--rounds", type=int, default=9, help="of speed (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="releases and kills of each (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round, to see that it runs")
    options = parser.parse_args()
    rounds, repeat = (1, 1) if options.quick else (options.rounds, options.repeat)
    found: Found = {}
    if "speed" in options.only:
        with ways(1) as there:
            found["speed"] = speed(there, rounds=rounds, seconds=0.2 if options.quick else 0.6)
        print_speed(found["speed"])
    for part, measure in (("kill", killed), ("release", released)):
        if part in options.only:
            found[part] = {}
            for _ in range(repeat):
                with ways(DAEMONS) as there:
                    ahead_of_others(there)
                    for name, way in there.items():
                        if not isinstance(way, Direct):
                            found[part].setdefault(name, {"rounds": []})["rounds"].append(measure(way))
                            print(f"{part:<8} {name:<10} {found[part][name]['rounds'][-1]}", flush=True)
    if not options.quick:
        for parts in found.values():
            parts["environment"] = environment()
        print(merge("peers", found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
