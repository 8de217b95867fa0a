"""What tens of thousands of connections do to one portfleet-daemon: memory, idle, slow-loris, connect storm.

Latency is compared between two daemons on the same CPU, one disturbed and one not, measured in turn: a shared
machine's noise falls on both.
"""

import itertools
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.daemon.servers import running
from benchmarks.lib.measure import Load, resident_bytes, run_load

RATE, BUSY = 5_000, 50  # requests a second over so many connections: a quarter of what a CPU can do
Probe = Callable[[], dict[str, Any]]


def probe(port: int, seconds: float) -> dict[str, Any]:
    """Latency of an open loop of RATE requests a second over BUSY connections; raises RuntimeError on any error."""
    found = run_load(port, mode="open", rate=RATE, connections=BUSY, warmup=0.3, seconds=seconds)
    if found["errors"]:
        raise RuntimeError(f"the undisturbed clients saw errors: {found}")
    return dict(found["latency_us"])


def in_turn(calm: Probe, disturbed: Probe, rounds: int) -> dict[str, Any]:
    """Measure both in turn; p99s in microseconds, and the median of the ratios disturbed / calm of each round.

    `quiet_p99_ratio` is the ratio of the lower quartiles: other people's work only ever adds to a p99, so the lower
    ones are nearer to what the server itself does. It is for the reader; `p99_ratio` is what is judged.
    """
    pairs = [(calm(), disturbed()) for _ in range(rounds)]
    quarter = len(pairs) // 4
    lower = [sorted(pair[side]["p99"] for pair in pairs)[quarter] for side in (0, 1)]
    return {
        "quiet_p99_us": lower,
        "quiet_p99_ratio": round(lower[1] / lower[0], 3),
        "calm_p99_us": median(first["p99"] for first, _ in pairs),
        "disturbed_p99_us": median(second["p99"] for _, second in pairs),
        "p99_ratio": round(median(second["p99"] / first["p99"] for first, second in pairs), 3),
        "p99_ratios": [round(second["p99"] / first["p99"], 3) for first, second in pairs],
        "calm_p50_us": median(first["p50"] for first, _ in pairs),
        "disturbed_p50_us": median(second["p50"] for _, second in pairs),
    }


def idle_memory(server: str, *, counts: tuple[int, ...]) -> dict[str, Any]:
    """Resident bytes of `server` per connection between the first and each further count of idle connections."""
    with running(server) as (port, pid):
        held: list[Load] = []
        sizes: list[int] = []
        try:
            for more in (counts[0], *(after - before for before, after in itertools.pairwise(counts))):
                held.append(Load.start(port, mode="idle", connections=more, first_id=sum(counts[: len(held)])))
                sizes.append(resident_bytes(pid))
            broken = sum(load.result(stop=True)["errors"] for load in held)
        finally:
            for load in held:
                load.__exit__()
    if broken:
        raise RuntimeError(f"{server}: {broken} idle connections broke")
    return {
        "connections": list(counts),
        "resident": sizes,
        "bytes_per_connection": [
            round((size - sizes[0]) / (count - counts[0]), 1) for size, count in zip(sizes[1:], counts[1:], strict=True)
        ],
    }


def idle_latency(*, idle: int, rounds: int, seconds: float) -> dict[str, Any]:
    """p99 of a daemon that holds `idle` idle connections against one that holds none."""
    with (
        running("portfleet") as (calm, _),
        running("portfleet") as (port, _),
        Load.start(port, mode="idle", connections=idle) as load,
    ):
        found = in_turn(lambda: probe(calm, seconds), lambda: probe(port, seconds), rounds)
        broken = load.result(stop=True)["errors"]
    return {"idle": idle, "broken": broken, **found}


def slow_loris(*, attackers: int, rounds: int, seconds: float) -> dict[str, Any]:
    """p99 beside `attackers` connections that each hold all of a request but its last byte, and when they are closed.

    `closed_after_s` are the median and the last close, counted from the request's bytes, for `timeout_s`.
    """
    timeout = round(2 * rounds * (seconds + 1.5) + 5)
    with (
        running("portfleet") as (calm, _),
        running("portfleet", "--request-timeout", f"{timeout}s") as (port, _),
        Load.start(port, mode="partial", connections=attackers) as load,
    ):
        found = in_turn(lambda: probe(calm, seconds), lambda: probe(port, seconds), rounds)
        if load.process.poll() is not None:
            raise RuntimeError("the slow connections were closed before the measurement was over")
        closes = load.result()
    return {
        "attackers": attackers,
        "timeout_s": timeout,
        "closed": closes["closed"],
        "closed_after_s": [round(closes["latency_us"][key] / 1e6, 3) for key in ("p50", "max")],
        **found,
    }


def connect_storm(*, rate: int, rounds: int, seconds: float) -> dict[str, Any]:
    """p99 of established connections while others connect, ask once and close, `rate` times a second."""
    with running("portfleet") as (calm, _), running("portfleet") as (port, _):

        def stormed() -> dict[str, Any]:
            with Load.start(port, mode="storm", rate=rate, connections=200, source="127.1.0.1", sources=1_000) as storm:
                began = time.monotonic()
                found = probe(port, seconds)
                result = storm.result(stop=True)
            made = result["replies"] / (time.monotonic() - began)
            if result["errors"]:
                raise RuntimeError(f"connections of the storm failed: {result}")
            storms.append(made)
            return found

        storms: list[float] = []
        found = in_turn(lambda: probe(calm, seconds), stormed, rounds)
    return {"rate": rate, "connects_per_second": round(median(storms)), **found}
