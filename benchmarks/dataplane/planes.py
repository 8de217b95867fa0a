"""What a client waits for and how much goes through: each data plane, a plain HAProxy and no balancer, in one run.

Two boxes of namespaces with the same fleet of one daemon, one behind nftables as root, one behind HAProxy (one process)
as an ordinary user; beside the latter a plain HAProxy, also of one process, that leads to the same daemon, and a second
daemon that clients dial directly. Everything of the boxes has one CPU and the load the other, so that a rate is what
a processor is left to give; more processes of one way would get more of a CPU that others use too. Short turns
alternate, and ratios are taken within each round. Three kinds of load: one connection that asks without pause (its
latency), 50 of them (requests a second), and short connections, 20 at a time (connects a second; the latency is from
the connect to the first reply). Prints a table and writes benchmarks/results/dataplane-planes.json. Needs root, haproxy
and a C compiler; two minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from benchmarks.lib.build import ROOT
from benchmarks.lib.measure import SERVER_CPU, run_load, save

sys.path.insert(0, str(ROOT / "tests"))

from support.fleet_box import ECHO, HOME, ORDINARY, FleetBox, fleet_box, on_plane
from support.netns import network_of
from support.sandbox import HOST4, client4, wait_for

FLEET = "[fleet]\nhaproxy_processes = 1\n" + ECHO.replace("handlers:whoami", "handlers:echo").replace("= 4", "= 1")
PLAIN = """
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
listen plain
    bind :7009
    server a 127.0.0.1:7100
"""
#: {what is measured: the load that shows it}
LOADS: dict[str, Mapping[str, object]] = {
    "latency": {"connections": 1},
    "requests": {"connections": 50},
    "connects": {"mode": "storm", "connections": 20, "rate": 1_000_000},
}
Found = dict[str, dict[str, list[dict[str, Any]]]]


def plain_haproxy(box: FleetBox) -> None:
    """Run a plain HAProxy beside the fleet; it ends with the box."""
    box.boxes.host.run("sh", "-c", f"cat > {HOME}/plain.cfg", text=PLAIN)
    box.boxes.host.run(*ORDINARY, "/usr/sbin/haproxy", "-D", "-f", f"{HOME}/plain.cfg")


@contextmanager
def ways() -> Iterator[dict[str, tuple[FleetBox, int]]]:
    """Yield {name: (box, port that clients dial there)}; all of it runs on the servers' CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CPU})
    with ExitStack() as stack:
        kernel = stack.enter_context(fleet_box(FLEET))
        with on_plane("haproxy"):
            proxied = stack.enter_context(fleet_box(FLEET))
        plain_haproxy(proxied)
        daemon = str(ROOT / ".venv/bin/portfleet-daemon")
        words = ("--port", "7200", "--handler", "portfleet_daemon.handlers:echo")
        # A session of its own, as supervisord's programs have: the scheduler shares a CPU out by sessions (sched(7)).
        direct = proxied.boxes.host.popen("setsid", *ORDINARY, daemon, *words)
        stack.callback(direct.wait)
        stack.callback(direct.kill)
        os.sched_setaffinity(0, allowed)
        yield {
            "direct": (proxied, 7200),
            "nftables": (kernel, 7000),
            "haproxy": (proxied, 7000),
            "plain haproxy": (proxied, 7009),
        }


def answers(box: FleetBox, port: int) -> str | None:
    """Return what a client of ``port`` is answered, None for nothing."""
    return box.ask([client4(1)], port=port, message="x\n")[0].reply


def turn(box: FleetBox, port: int, load: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
    """Return what the load generator says of one turn; raise SystemExit if anything was lost or wrong."""
    with network_of(box.boxes.clients):
        said = run_load(port, host=HOST4, source=client4(0), sources=250, seconds=seconds, warmup=0.1, **load)
    if said["errors"] or said["unanswered"]:
        raise SystemExit(f"port {port}: {said}")
    return {"rate": said["replies"] / said["seconds"], **said["latency_us"]}


def rows(found: Found) -> dict[str, dict[str, float]]:
    """Return for each way the medians over the rounds, and of the ratios to nftables within each round."""
    made: dict[str, dict[str, float]] = {}
    for name, loads in found.items():
        row = made[name] = {}
        for load, value in (("latency", "p50"), ("latency", "p99"), ("requests", "rate"), ("connects", "rate"),
                            ("connects", "p50"), ("connects", "p99")):  # fmt: skip
            pairs = [(one[value], base[value]) for one, base in zip(loads[load], found["nftables"][load], strict=True)]
            unit = "per_s" if value == "rate" else f"{value}_us"
            row[f"{load}_{unit}"] = statistics.median(one for one, _ in pairs)
            row[f"{load}_{unit}_ratio"] = statistics.median(one / base for one, base in pairs)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench dataplane/planes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that it runs")
    options = parser.parse_args()
    with ways() as dialled:
        found: Found = {name: {load: [] for load in LOADS} for name in dialled}
        for box, port in dialled.values():
            wait_for("it answers", partial(answers, box, port))
        for _ in range(2 if options.quick else options.rounds):
            for load, flags in LOADS.items():
                for name, (box, port) in dialled.items():
                    found[name][load].append(turn(box, port, flags, seconds=0.5))
    table = rows(found)
    print(f"{'':14} exchange us p50   p99   requests/s   connects/s   connect us p50   p99   (beside nftables)")
    for name, row in table.items():
        print(
            f"{name:14} {row['latency_p50_us']:15.1f} {row['latency_p99_us']:5.0f} {row['requests_per_s']:12,.0f} "
            f"{row['connects_per_s']:12,.0f} {row['connects_p50_us']:16.0f} {row['connects_p99_us']:5.0f}   "
            f"({row['latency_p50_us_ratio']:.2f}, {row['requests_per_s_ratio']:.2f}, {row['connects_per_s_ratio']:.2f})"
        )
    if not options.quick:
        print(save("dataplane-planes", dict(table)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
