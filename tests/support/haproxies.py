"""A plane of HAProxy with its processes, as supervisord would run them, in a directory of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from portfleet.core.changes import DropAll, SetFleet
from portfleet.core.model import Fleet
from portfleet.dataplane.haproxy.client import Client, ask
from portfleet.dataplane.haproxy.plane import HaproxyPlane
from support.sandbox import wait_for


@dataclass
class Haproxies:
    """``plane`` with ``processes`` that run; `close` ends them."""

    plane: HaproxyPlane
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def tell(self, number: int, command: str) -> str:
        """Give process ``number`` a command, as another program would."""
        return ask(self.folder / f"haproxy-{number}.sock", command)

    def client(self, number: int) -> Client:
        return Client(number, self.folder / f"haproxy-{number}.sock", self.folder / f"master-{number}.sock")

    def start(self, fleet: Fleet) -> None:
        """Start every process and wait until all answer."""
        log = (self.folder / "log").open("ab")
        for program in self.plane.programs(fleet).values():
            self.processes.append(subprocess.Popen(program.command, stdout=log, stderr=log))
        log.close()
        numbers = range(1, fleet.haproxy_processes + 1)
        wait_for("every HAProxy answers", lambda: all(self.client(n).there() for n in numbers))

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=20)


@contextmanager
def haproxies(processes: int = 2) -> Iterator[Haproxies]:
    """Give a plane that nothing is set on, with its processes running."""
    folder = Path(tempfile.mkdtemp(prefix="ha-"))  # the path of a socket has 107 bytes
    plane = HaproxyPlane(folder, log=folder, processes=processes)
    made = Haproxies(plane, folder)
    try:
        plane.run((SetFleet("0" * 16),))
        plane.run((DropAll(),))
        made.start(Fleet({}, dataplane="haproxy", haproxy_processes=processes))
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)
