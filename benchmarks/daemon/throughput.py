"""CPU per request and requests per second of each server, closed loop, taken in turn."""

import contextlib
from statistics import median
from typing import Any

from benchmarks.daemon.servers import COMMANDS, running
from benchmarks.lib.measure import run_load


def throughput(*, rounds: int, seconds: float, connections: tuple[int, ...] = (50, 1_000)) -> dict[str, Any]:
    """Measure every server `rounds` times for `seconds`, A B C D A B C D, at each count of busy connections.

    Returns, by count of connections and server, the medians `us_per_request` (CPU of the server), `rps`,
    `server_busy` and `client_busy` (share of its CPU each used), all runs, and `cpu_ratio`: CPU of the C server
    divided by that of this one in the same round, median over the rounds. Where `server_busy` is well below 1 the
    load was the limit: the server slept between batches, and its CPU per request includes those wake-ups.
    """
    table: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(running(name)) for name in COMMANDS}
        for count in connections:
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
            for _ in range(rounds):
                for name, (port, pid) in servers.items():
                    found = run_load(port, pids=[pid], connections=count, warmup=0.5, seconds=seconds)
                    if found["errors"]:
                        raise RuntimeError(f"{name} at {count} connections: {found}")
                    runs[name].append(
                        {
                            "us_per_request": found["cpu"][0]["us_per_request"],
                            "rps": found["rps"],
                            "server_busy": found["cpu"][0]["seconds"] / found["seconds"],
                            "client_busy": found["client_busy"],
                        }
                    )
            table[str(count)] = {name: summary(taken, runs["C epoll"]) for name, taken in runs.items()}
    return table


def summary(runs: list[dict[str, float]], limit: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of one server's runs, and its ratio to the C server's run of the same round."""
    ratios = [c["us_per_request"] / ours["us_per_request"] for c, ours in zip(limit, runs, strict=True)]
    return {
        **{key: round(median(run[key] for run in runs), 3) for key in runs[0]},
        "cpu_ratio": round(median(ratios), 3),
        "cpu_ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "runs": runs,
    }


def print_throughput(table: dict[str, Any]) -> None:
    """Print what `throughput` returned."""
    print(
        f"{'':12}{'connections':>12}{'CPU us/request':>16}{'C / it':>8}{'(range)':>15}{'requests/s':>12}"
        f"{'server busy':>13}{'client busy':>13}"
    )
    for count, servers in table.items():
        for name, row in servers.items():
            low, high = row["cpu_ratio_range"]
            print(
                f"{name:12}{count:>12}{row['us_per_request']:16.2f}{row['cpu_ratio']:8.2f}{f'({low:.2f}-{high:.2f})':>15}"
                f"{row['rps']:12,.0f}{row['server_busy']:13.2f}{row['client_busy']:13.2f}"
            )
