"""Designs and fleets as things that can be started, looked at, released and killed, each in boxes of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from benchmarks.lib.boxes import on_server_cpu, pids_in
from benchmarks.lib.build import ROOT, compile_c

sys.path.insert(0, str(ROOT / "tests"))

from support.fleet_box import FleetBox, fleet_box
from support.sandbox import Sandbox, sandbox, wait_for

PORT, LEAST, ROOM = 7000, 4, 17_000
_HERE = "benchmarks/designs"
#: {name: what it is}, in the order of the tables.
DESIGNS = {
    "threads": "a thread for each connection",
    "prefork": "processes forked in advance, one listener",
    "libevent": "one loop of libevent",
    "acceptor": "an acceptor and a loop per thread",
    "workers": "edge-triggered epoll and a pool of workers",
    "reuseport": "processes with SO_REUSEPORT",
}
FLEETS = {
    "fleet-c": "portfleet, the daemon in C",
    "fleet-ours": "portfleet, portfleet-daemon",
    "fleet-uvloop": "portfleet, uvloop",
    "fleet-asyncio": "portfleet, asyncio",
}
#: One epoll loop, for what is measured beside each.
REFERENCE = "reference"
#: Which are several processes by design; the others are as many as the limit of descriptors demands.
_SEVERAL = {"prefork", "reuseport", *FLEETS}
_FLEET = f"""
[service.echo]
listen = [":{PORT}"]
command = {{command}}
environment = {{{{ PYTHONPATH = "{ROOT}:{ROOT / "daemon"}" }}}}
ports = "7100-7199"
instances = {{instances}}
min_ready = "1s"
start_timeout = "60s"
"""


def processes(name: str, connections: int) -> int:
    """Return of how many processes it is made for so many connections."""
    if name == REFERENCE:
        return 1
    return max(LEAST if name in _SEVERAL else 1, ceil(connections / ROOM))


@dataclass
class Design:
    """A program of benchmarks/designs in the host's box."""

    boxes: Sandbox
    program: Path
    number: int
    _all: list[object] = field(default_factory=list)

    def start(self) -> set[int]:
        """Start a copy; return its processes when it accepts."""
        before, listening = self.pids(), self._listening()
        words = (str(self.program), str(PORT), "--processes", str(self.number))
        self._all.append(self.boxes.host.popen(*words))
        wait_for("it listens", lambda: self._listening() > listening)
        wait_for("all run", lambda: len(self.pids() - before) >= self.number + (self.number > 1))
        return self.pids() - before

    def _listening(self) -> int:
        lines = self.boxes.host.run("cat", "/proc/net/tcp6").stdout.splitlines()
        return sum(f":{PORT:04X} " in line and " 0A " in line for line in lines)

    def pids(self) -> set[int]:
        """Return the processes of all copies."""
        return pids_in(self.boxes.host, self.program.name)

    def release(self) -> set[int]:
        """Start a new copy and have the old one accept no more; return the old one's processes."""
        old = self.pids()
        self.start()
        self.boxes.host.run("kill", "-TERM", *self._inside(old))
        return old

    def _inside(self, pids: set[int]) -> list[str]:
        """Return processes by the numbers that the box knows them by."""
        lines = (Path(f"/proc/{pid}/status").read_text().splitlines() for pid in pids)
        return [line.split()[-1] for some in lines for line in some if line.startswith("NSpid:")]


@dataclass
class Fleet:
    """A fleet behind nftables, run by the real portfleet."""

    box: FleetBox
    words: tuple[str, ...]
    hands_off: bool

    @property
    def boxes(self) -> Sandbox:
        """Return its boxes."""
        return self.box.boxes

    def pids(self) -> set[int]:
        """Return the processes of the instances."""
        return pids_in(self.box.boxes.host, *self.words)

    def release(self) -> set[int]:
        """Cut over; return the processes of the old colour."""
        old = self.pids()
        wait = "--wait" if self.hands_off else "--no-wait"
        self.box.boxes.host.run(*self.box.argv("cutover", "echo", "--force", wait), timeout=120)
        return old


Contender = Design | Fleet


def program(name: str) -> Path:
    """Return a design's program, compiled."""
    link = ("-levent_core",) if name == "libevent" else ()
    name = "prefork" if name == REFERENCE else name
    return compile_c(f"design-{name}", f"{_HERE}/{name}.c", f"{_HERE}/design.c", link=link)


def _daemon(name: str) -> tuple[list[str], tuple[str, ...]]:
    """Return the command of an instance, and what of it tells the processes."""
    match name:
        case "fleet-c":
            sources = ("examples/c-daemon/daemon.c", f"{_HERE}/slow_recv.c", f"{_HERE}/design.c")
            daemon = compile_c("design-c-daemon", *sources, link=("-Wl,--wrap=recv",))
            return [str(daemon), "--port", "{port}"], ("design-c-daemon",)
        case "fleet-ours":
            handler = "benchmarks.designs.handlers:echo"
            daemon = Path(sys.executable).with_name("portfleet-daemon")
            return [str(daemon), "--port", "{port}", "--handler", handler], (handler,)
    kind = name.removeprefix("fleet-")
    return [sys.executable, "-m", "benchmarks.designs.stock", kind, "{port}"], ("benchmarks.designs.stock", kind)


@contextmanager
def running(name: str, connections: int) -> Iterator[Contender]:
    """Run a design or a fleet for so many connections."""
    number = processes(name, connections)
    with on_server_cpu():
        if name in FLEETS:
            command, words = _daemon(name)
            text = _FLEET.format(command=str(command).replace("'", '"'), instances=number)
            with fleet_box(text) as box:
                yield Fleet(box, words, name in ("fleet-c", "fleet-ours"))
            return
        with sandbox() as boxes:
            made = Design(boxes, program(name), number)
            made.start()
            yield made
