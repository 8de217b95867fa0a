"""One broadcast of 64 bytes to 10,000 idle receivers, again and again, while another client asks for replies.

What it takes the daemon, until the last receiver has it, and what it costs the one that asks. Every receiver must have
every message. Prints a table and writes benchmarks/results/push.json.
"""

import argparse
import os
import select
import socket
import sys
import threading
import time
from statistics import median, quantiles
from typing import Any

from benchmarks.lib.measure import CLIENT_CPU, free_port, save, serving

MESSAGE = b"x" * 63 + b"\n"
PAUSE = 0.002  # seconds between two questions


def connect(port: int) -> socket.socket:
    """Return a connection to the daemon."""
    return socket.create_connection(("127.0.0.1", port), 10)


class Asker(threading.Thread):
    """Asks `ping` all the time; `latencies` are (when, seconds)."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._sock, self._over = connect(port), threading.Event()
        self.latencies: list[tuple[float, float]] = []

    def run(self) -> None:
        """Ask until `stop`."""
        rest = b""
        while not self._over.wait(PAUSE):
            began = time.perf_counter()
            self._sock.sendall(b"ping\n")
            while b"pong\n" not in rest:  # broadcasts come in between: it is connected like the others
                rest += self._sock.recv(1 << 16)
            rest = rest.partition(b"pong\n")[2]
            self.latencies.append((began, time.perf_counter() - began))

    def stop(self) -> None:
        """Have it end."""
        self._over.set()
        self.join(10)


def receive(receivers: dict[int, socket.socket], poll: select.epoll) -> float:
    """Take one message by each receiver; return when the last one had it."""
    left = dict.fromkeys(receivers, 0)
    while left:
        for fd, _ in poll.poll(30, 512):
            left[fd] += len(receivers[fd].recv(len(MESSAGE)))
            if left[fd] == len(MESSAGE):
                del left[fd]
    return time.perf_counter()


def measure(port: int, number: int, rounds: int) -> dict[str, Any]:
    """Run the rounds against the daemon on `port`."""
    receivers = {sock.fileno(): sock for sock in (connect(port) for _ in range(number))}
    poll = select.epoll()
    for fd in receivers:
        poll.register(fd, select.EPOLLIN)
    trigger, asker = connect(port), Asker(port)
    asker.start()
    found, windows = [], []
    for _ in range(rounds):
        time.sleep(0.3)
        began = time.perf_counter()
        trigger.sendall(b"go\n")
        last = receive(receivers, poll)
        said = b""
        while said.count(b"\n") < 2:  # the message, as it is connected too, and the answer
            said += trigger.recv(1 << 16)
        told, wall, cpu = said.split(b"\n")[1].split()
        assert int(told) == number + 2
        windows.append((began, last))
        took = {"last_ms": 1e3 * (last - began), "daemon_ms": 1e3 * float(wall)}
        found.append(took | {"us_each": 1e6 * float(cpu) / number})
    asker.stop()
    beside = [took for at, took in asker.latencies if any(began <= at <= last for began, last in windows)]
    calm = [took for at, took in asker.latencies if not any(began - 0.05 <= at <= last for began, last in windows)]
    return {
        "receivers": number,
        "rounds": found,
        **{key: round(median(one[key] for one in found), 2) for key in found[0]},
        "asker_p50_ms": round(1e3 * median(beside), 3),
        "asker_worst_ms": round(1e3 * max(beside), 3),
        "calm_p50_ms": round(1e3 * median(calm), 3),
        "calm_p99_ms": round(1e3 * quantiles(calm, n=100)[98], 3),
    }


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--receivers", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="few receivers, and nothing is written")
    options = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT_CPU})
    port = free_port()
    handler = "benchmarks.daemon.push_handler:Push"
    command = [sys.executable, "-m", "portfleet_daemon", "--port", str(port), "--handler", handler]
    with serving(command, port):
        found = measure(port, 500 if options.quick else options.receivers, 3 if options.quick else options.rounds)
    for name, value in found.items():
        if name != "rounds":
            print(f"{name:<16} {value:>12,}")
    if not options.quick:
        print(save("push", found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
