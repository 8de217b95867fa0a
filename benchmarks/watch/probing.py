"""Probe 1,000 instances every second: how much of one core the watcher's prober takes, for each kind of probe.

The instances are fake, 1,000 listeners in one process (not counted) that answer like daemons do: by nothing (connect),
by an expected reply (send), and like portfleet-daemon (control socket and an empty request through the port). The
first two have no control socket, for which the prober looks all the same. conntrack follows every probe, as it does on
a box with our rules. Prints a table, writes benchmarks/results/watch-probing.json, exits 1 when a kind takes over 10 %
or when probes failed or were late. Needs a network namespace of its own.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from benchmarks.lib.measure import save

from portfleet.core.policies import Probe
from portfleet.daemons.exchange import Port
from portfleet.daemons.probe import Target
from portfleet.dataplane.nft.conntrack import Forgetter
from portfleet.watch.prober import Prober

COUNT, LIMIT = 1000, 0.10
FIRST_PORT = 10_000
KINDS = ("connect", "send", "ours")
#: As long as the real one.
_READY = json.dumps(
    {"ok": True, "state": "ready", "connections": 17310, "pid": 4711, "instance": "echo-blue-1", "port": 7101}
    | {"version": "0.1.0", "accepted": 10**7, "requests": 10**9, "bytes_in": 10**11, "bytes_out": 10**11, "errors": 0}
    | {"latency": {"bounds_us": [2**n for n in range(30)], "counts": [10**6 + n for n in range(31)]}}
    | {"max_loop_lag_us": 1234, "max_connections": 19936, "handoff": [1]}
).encode() + b"\n"  # fmt: skip
_BRIEF = b'{"ok": true, "state": "ready", "connections": 17310, "max_connections": 19936}\n'
_CONNTRACK = """add table inet bench
add chain inet bench input { type filter hook input priority 0; }
add rule inet bench input ct state new counter"""


def answer(folder: str, ready: Connection) -> None:
    """Be 1,000 daemons: accept, answer what is asked, close at end of input."""
    poll, sockets = select.epoll(), dict[int, socket.socket]()
    listeners: set[int] = set()

    def add(sock: socket.socket) -> None:
        sock.setblocking(False)
        sockets[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)

    for number in range(COUNT):
        tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.1", FIRST_PORT + number))
        unix.bind(f"{folder}/{number}.sock")
        for sock in (tcp, unix):
            sock.listen(16)
            listeners.add(sock.fileno())
            add(sock)
    ready.send(True)
    while True:
        for fd, _ in poll.poll():
            if fd in listeners:
                add(sockets[fd].accept()[0])
                continue
            with contextlib.suppress(ConnectionError):
                if data := sockets[fd].recv(4096):
                    brief = _BRIEF if b'"state"' in data else _READY
                    sockets[fd].send(brief if data.startswith(b"{") else b"PONG\n")
                    continue
            poll.unregister(fd)
            sockets.pop(fd).close()


@contextlib.contextmanager
def instances(folder: str) -> Iterator[int]:
    """Have the fake instances run and give their process."""
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=answer, args=(folder, theirs), daemon=True)
    process.start()
    try:
        mine.recv()
        yield process.pid or 0
    finally:
        process.kill()
        process.join()


def targets(kind: str, folder: str) -> list[Target]:
    """Return what to probe."""
    probe = Probe(send="PING\n", expect="PONG") if kind == "send" else Probe()
    return [
        Target(f"fake-{number}", Port("127.0.0.1", FIRST_PORT + number),
               f"{folder}/{number}.{'sock' if kind == 'ours' else 'none'}", probe)
        for number in range(COUNT)
    ]  # fmt: skip


async def run(kind: str, folder: str, pid: int, seconds: float) -> dict[str, float]:
    """Probe the instances, all of process ``pid``, and give the share of a core, the probes done and the failures."""
    done: list[str] = []
    prober = Prober(lambda _, trouble, __: done.append(trouble), time.monotonic, lambda _: pid)
    prober.aim(targets(kind, folder))

    forgetter = Forgetter()

    async def go_on(until: float) -> None:
        while time.monotonic() < until:
            wait = prober.tick()
            ended, prober.ended = prober.ended, []
            forgetter.forget(ended)
            await asyncio.sleep(wait)

    await go_on(time.monotonic() + 2.5)  # each was asked once in the way of the first time
    done.clear()
    cpu, wall = time.process_time(), time.monotonic()
    await go_on(wall + seconds)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {"share": cpu / wall, "per_second": len(done) / wall, "failed": sum(map(bool, done))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 s a kind instead of 20")
    seconds = 5 if parser.parse_args().quick else 20
    results = {}
    subprocess.run(["nft", _CONNTRACK], check=True)
    with tempfile.TemporaryDirectory() as folder, instances(folder) as pid:
        for kind in KINDS:
            results[kind] = asyncio.run(run(kind, folder, pid, seconds))
    print(f"{'probe':<8} {'share of a core':>16} {'probes/s':>10} {'failed':>7}")
    for kind, found in results.items():
        print(f"{kind:<8} {found['share']:>15.1%} {found['per_second']:>10.0f} {found['failed']:>7.0f}")
    save("watch-probing", {"instances": COUNT, "limit": LIMIT, "kinds": results})
    good = all(
        found["share"] <= LIMIT and not found["failed"] and found["per_second"] > 0.95 * COUNT
        for found in results.values()
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
