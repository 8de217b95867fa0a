"""The echo servers that are compared: C, portfleet-daemon, uvloop, asyncio; one interface, one port each."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.lib.build import compile_c
from benchmarks.lib.measure import free_port, serving

PYTHON = [sys.executable, "-m"]


def portfleet(port: int, *flags: str) -> list[str | Path]:
    """The command line of our daemon with the built-in echo handler."""
    return [*PYTHON, "portfleet_daemon", "--port", str(port), "--handler", "portfleet_daemon.handlers:echo", *flags]


COMMANDS: dict[str, Callable[[int], list[str | Path]]] = {
    "C epoll": lambda port: [compile_c("echo_epoll", "benchmarks/daemon/echo_epoll.c"), str(port)],
    "portfleet": portfleet,
    "uvloop": lambda port: [*PYTHON, "benchmarks.daemon.uvloop_echo", str(port)],
    "asyncio": lambda port: [*PYTHON, "benchmarks.daemon.asyncio_echo", str(port)],
}


@contextlib.contextmanager
def running(name: str, *flags: str) -> Iterator[tuple[int, int]]:
    """Run server `name`; gives (port, pid). `flags` are for portfleet-daemon only."""
    port = free_port()
    command = portfleet(port, *flags) if name == "portfleet" else COMMANDS[name](port)
    with serving(command, port) as process:
        yield port, process.pid
