"""Runs real portfleet-daemons for tests and talks to them; each is killed by pid at the end, also when a test fails."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DEADLINE = 15.0  # seconds for anything that is to happen


def wait_for(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """The first true value of `condition`; AssertionError after `deadline` seconds."""
    limit = time.monotonic() + deadline
    while not (value := condition()):
        assert time.monotonic() < limit, f"not within {deadline} s: {what}"
        time.sleep(0.01)
    return value


@dataclass
class Daemon:
    """A running daemon: its process, port and control socket."""

    process: subprocess.Popen[bytes]
    control: str
    log_path: Path
    port: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def ask(self, **request: Any) -> dict[str, Any]:
        """The first answer to one command."""
        return self.stream(**request)[0]

    def stream(self, **request: Any) -> list[dict[str, Any]]:
        """All answers to one command, to its last."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE * 2)
            sock.connect(self.control)
            sock.sendall(json.dumps(request).encode() + b"\n")
            answers = []
            for line in sock.makefile():
                answers.append(json.loads(line))
                if answers[-1].get("event") != "progress":
                    break
            return answers

    def status(self) -> dict[str, Any]:
        return self.ask(command="status")

    def connect(self, address: str = "127.0.0.1") -> Client:
        return Client(socket.create_connection((address, self.port), timeout=DEADLINE))

    def until(self, **wanted: Any) -> dict[str, Any]:
        """Wait until the status has these values."""

        def reached() -> dict[str, Any] | None:
            status = self.status()
            return status if all(status[key] == value for key, value in wanted.items()) else None

        found: dict[str, Any] = wait_for(reached, f"{wanted} in {self.status()}")
        return found

    def rss(self) -> int:
        """Resident memory in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


class Client:
    """A client's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, size: int) -> bytes:
        """`size` bytes, fewer if the daemon closes first."""
        data = b""
        while len(data) < size:
            part = self.sock.recv(min(size - len(data), 1 << 20))
            if not part:
                break
            data += part
        return data

    def line(self) -> bytes:
        data = b""
        while not data.endswith(b"\n"):
            part = self.sock.recv(1)
            if not part:
                break
            data += part
        return data

    def ask(self, data: bytes) -> bytes:
        self.send(data)
        return self.line()

    def closed(self) -> bool:
        """Whether the daemon closes the connection, by end of file or reset, without another byte."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True


class Daemons:
    """Starts daemons in a directory of their own and ends them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: list[Daemon] = []

    def start(
        self,
        *flags: str,
        handler: str = "portfleet_daemon.handlers:echo",
        name: str = "",
        port: int = 0,
        ready: bool = True,
        descriptors: int | None = None,
    ) -> Daemon:
        """A daemon on a free port, once it is ready. `descriptors` is its hard limit."""
        name = name or f"d{len(self.running)}"
        control = str(self.directory / f"{name}.sock")
        command = [sys.executable, "-m", "portfleet_daemon", "--port", str(port), "--handler", handler, *flags]
        command = ["setpriv", "--bounding-set=-all", *command]  # root that has no capability: the daemon needs none
        if descriptors is not None:
            command = ["prlimit", f"--nofile={descriptors}:{descriptors}", *command]
        environment = {**os.environ, "PORTFLEET_CONTROL": control, "PORTFLEET_INSTANCE": name}
        log_path = self.directory / f"{name}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, cwd=self.directory, env=environment, stdout=log, stderr=log)
        daemon = Daemon(process, control, log_path)
        self.running.append(daemon)
        if ready:
            wait_for(lambda: self._is_ready(daemon), "ready")
            daemon.port = daemon.status()["port"]
        return daemon

    def _is_ready(self, daemon: Daemon) -> bool:
        assert daemon.process.poll() is None, f"exit {daemon.process.returncode}: {daemon.log}"
        with contextlib.suppress(OSError):
            return bool(daemon.status()["state"] == "ready")
        return False

    def end(self) -> None:
        """Kill what still runs."""
        for daemon in self.running:
            daemon.process.kill()
            daemon.process.wait()


@contextlib.contextmanager
def daemons_in(directory: Path) -> Iterator[Daemons]:
    """Daemons that end with the block."""
    daemons = Daemons(directory)
    try:
        yield daemons
    finally:
        daemons.end()
