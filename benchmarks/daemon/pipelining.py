"""CPU per request when clients send 16 requests at a time: RESP against redis and uvloop + hiredis; line and length.

Closed loop, 50 connections, every reply compared byte for byte. Prints a table and writes
benchmarks/results/pipelining.json. --before DIR also measures the daemon of another checkout, in turn with this one.
Exits 1 when a target is missed.
"""

import argparse
import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.lib.build import ROOT
from benchmarks.lib.measure import CLIENT_CPU, free_port, save, serving

DEPTH, CONNECTIONS = 16, 50
VALUE = b"x" * 64
PYTHON = [sys.executable, "-m"]


@dataclass(frozen=True)
class Talk:
    """What clients say: once at first, then `request` for `reply` again and again."""

    request: bytes
    reply: bytes
    first: bytes = b""


LINE = Talk(VALUE + b"\n", VALUE + b"\n")
LENGTH = Talk(b"\0\0\0\x40" + VALUE, b"\0\0\0\x40" + VALUE)
RESP = Talk(
    b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n",
    b"$64\r\n" + VALUE + b"\r\n",
    b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$64\r\n" + VALUE + b"\r\n",
)


def daemon(port: int, framing: str, handler: str) -> list[str]:
    """Return the command line of portfleet-daemon."""
    return [*PYTHON, "portfleet_daemon", "--port", str(port), "--framing", framing, "--handler", handler]


def commands(port: int, before: Path | None) -> dict[str, tuple[list[str], Talk, Path | None]]:
    """Return, by name: a command line, what to say to it, and the folder its daemon is imported from if not this."""
    store, echo = "benchmarks.daemon.store:respond", "portfleet_daemon.handlers:echo"
    ours = {
        "resp": (daemon(port, "resp", store), RESP),
        "line": (daemon(port, "line", echo), LINE),
        "length": (daemon(port, "length", echo), LENGTH),
    }
    redis = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    return {
        "redis": (redis, RESP, None),
        "uvloop + hiredis": ([*PYTHON, "benchmarks.daemon.uvloop_resp", str(port)], RESP, None),
        **{name: (*one, None) for name, one in ours.items()},
        **({f"{name} before": (*one, before) for name, one in ours.items()} if before else {}),
    }


@contextlib.contextmanager
def running(command: list[str], port: int, folder: Path | None) -> Iterator[int]:
    """Run a server for RESP or lines; gives its pid."""
    options: dict[str, Any] = {"stdout": -3} if command[0] == "redis-server" else {}  # -3: to /dev/null
    if folder is not None:
        options["env"] = {**os.environ, "PYTHONPATH": str(folder)}
    with serving(command, port, **options) as process:
        yield process.pid


def cpu_seconds(pid: int) -> float:
    """Return what all threads of a process have run."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def ask(port: int, pid: int, talk: Talk, seconds: float) -> dict[str, float]:
    """Return `us_per_request` of the server and requests per second; raise RuntimeError at a wrong reply."""
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(CONNECTIONS)
        ]
        if talk.first:
            socks[0].sendall(talk.first)
            socks[0].recv(100)
        requests, replies = talk.request * DEPTH, talk.reply * DEPTH
        done, began, cpu = 0, time.monotonic(), cpu_seconds(pid)
        while (passed := time.monotonic() - began) < seconds:
            for sock in socks:
                sock.sendall(requests)
            for sock in socks:
                if sock.recv(len(replies), socket.MSG_WAITALL) != replies:
                    raise RuntimeError("a wrong reply")
            done += DEPTH * CONNECTIONS
        return {"us_per_request": (cpu_seconds(pid) - cpu) / done * 1e6, "rps": done / passed}


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench daemon/pipelining", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each server (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each (default %(default)s)")
    parser.add_argument("--before", type=Path, metavar="DIR", help="another checkout, whose daemon is measured too")
    args = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT_CPU})
    runs: dict[str, list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in commands(0, args.before):
            port = free_port()
            command, talk, folder = commands(port, args.before)[name]
            path = f"{(folder / 'daemon').resolve()}:{ROOT}" if folder else None
            servers[name] = (port, stack.enter_context(running(command, port, Path(path) if path else None)), talk)
        for _ in range(args.rounds):
            for name, (port, pid, talk) in servers.items():
                runs.setdefault(name, []).append(ask(port, pid, talk, args.seconds))
    table = {name: summary(taken, runs) for name, taken in runs.items()}
    print(f"{'':18}{'CPU us/request':>16}{'requests/s':>12}{'redis / it (range)':>22}{'uvloop / it (range)':>22}")
    for name, row in table.items():
        ratios = "".join(
            f"{row[key]:10.2f} ({row[key + '_range'][0]:.2f}-{row[key + '_range'][1]:.2f})"
            for key in ("redis_ratio", "uvloop_ratio")
            if key in row
        )
        print(f"{name:18}{row['us_per_request']:16.3f}{row['rps']:12,.0f}{ratios}")
    print(f"written: {save('pipelining', {'depth': DEPTH, 'connections': CONNECTIONS, 'servers': table})}")
    ours = table["resp"]
    missed = 0
    for what, ratio, wanted in (
        ("CPU of redis / ours", ours["redis_ratio"], 0.5),
        ("CPU of uvloop + hiredis / ours", ours["uvloop_ratio"], 1.2),
    ):
        print(f"{'met   ' if ratio >= wanted else 'MISSED'} {what}: {ratio:.2f} >= {wanted}")
        missed += ratio < wanted
    return 1 if missed else 0


def summary(taken: list[dict[str, float]], runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians of one server and, of those that speak RESP, ratios to the others in the same round."""
    row: dict[str, Any] = {key: round(median(run[key] for run in taken), 3) for key in taken[0]}
    if taken not in [runs.get(name) for name in ("line", "length", "line before", "length before")]:
        for key, name in (("redis_ratio", "redis"), ("uvloop_ratio", "uvloop + hiredis")):
            ratios = [a["us_per_request"] / b["us_per_request"] for a, b in zip(runs[name], taken, strict=True)]
            row[key] = round(median(ratios), 3)
            row[f"{key}_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return {**row, "runs": taken}


if __name__ == "__main__":
    sys.exit(main())
