"""What a client waits for on each data plane, and behind a plain HAProxy, measured in turn in one run.

Two boxes of namespaces with the same fleet of four daemons, one behind nftables as root, one behind HAProxy as an
ordinary user; beside the latter a plain HAProxy (round robin, one process) leads to the same daemons. A connect is
timed up to the first reply; an exchange is one request on a connection that stays. Short turns alternate, and ratios
are taken within each round. Prints a table and writes benchmarks/results/dataplane-planes.json. Needs root and haproxy;
a minute.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import time
from contextlib import ExitStack

from benchmarks.lib.build import ROOT
from benchmarks.lib.measure import save

sys.path.insert(0, str(ROOT / "tests"))

from support.fleet_box import ECHO, HOME, ORDINARY, FleetBox, fleet_box, on_plane
from support.netns import network_of
from support.sandbox import HOST4, client4, wait_for

PLAIN = """
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
listen plain
    bind :7009
    balance roundrobin
    server a 127.0.0.1:7100
    server b 127.0.0.1:7101
    server c 127.0.0.1:7102
    server d 127.0.0.1:7103
"""


def dial(port: int, number: int) -> socket.socket:
    connection = socket.create_connection((HOST4, port), timeout=10, source_address=(client4(number * 31 % 120_000), 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def connects(port: int, count: int, first: int) -> float:
    """Return the median of microseconds from a connect to its first reply."""
    took = []
    for number in range(first, first + count):
        began = time.perf_counter()
        with dial(port, number) as connection:
            connection.send(b"x\n")
            connection.recv(200)
            took.append((time.perf_counter() - began) * 1e6)
    return statistics.median(took)


def exchanges(connection: socket.socket, count: int) -> float:
    """Return the median of microseconds of a request."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        connection.send(b"x\n")
        connection.recv(200)
        took.append((time.perf_counter() - began) * 1e6)
    return statistics.median(took)


def plain_haproxy(box: FleetBox) -> None:
    """Run a plain HAProxy beside the fleet; it ends with the box."""
    box.boxes.host.run("sh", "-c", f"cat > {HOME}/plain.cfg", text=PLAIN)
    box.boxes.host.run(*ORDINARY, "/usr/sbin/haproxy", "-D", "-f", f"{HOME}/plain.cfg")


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench dataplane/planes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="turns of each (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="three rounds, to see that it runs")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"nftables": [], "haproxy": [], "plain haproxy": []}
    with ExitStack() as stack:
        kernel = stack.enter_context(fleet_box(ECHO))
        with on_plane("haproxy"):
            proxied = stack.enter_context(fleet_box(ECHO))
        plain_haproxy(proxied)
        ways = {"nftables": (kernel, 7000), "haproxy": (proxied, 7000), "plain haproxy": (proxied, 7009)}
        for turn in range(3 if options.quick else options.rounds):
            for name, (box, port) in ways.items():
                with network_of(box.boxes.clients), wait_for("it listens", lambda port=port: dial(port, 1)) as held:
                    found[name].append((exchanges(held, 200), connects(port, 50, turn * 50)))
    rows = {
        name: {
            "exchange_us": statistics.median(one for one, _ in took),
            "connect_us": statistics.median(one for _, one in took),
            "exchange_ratio": statistics.median(a / b for (a, _), (b, _) in zip(took, found["nftables"], strict=True)),
            "connect_ratio": statistics.median(a / b for (_, a), (_, b) in zip(took, found["nftables"], strict=True)),
        }
        for name, took in found.items()
    }
    print(f"{'':14} exchange us  connect and first reply us  (as multiples of nftables)")
    for name, row in rows.items():
        ratios = f"({row['exchange_ratio']:.2f}, {row['connect_ratio']:.2f})"
        print(f"{name:14} {row['exchange_us']:11.1f}  {row['connect_us']:26.1f}  {ratios}")
    if not options.quick:
        save("dataplane-planes", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
