"""The fleet's own files: socket paths that fit, and room for logs and the journal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from portfleet.core.model import Fleet
from portfleet.core.paths import SOCKET_PATH_MAX, Paths
from portfleet.doctor.finding import Finding, broken, fine, warning

#: A log grows to 10 MB and is kept three times (templates/supervisor/program.conf.j2).
LOG_BYTES = 4 * 10 * 1024 * 1024
_MIB = 1024 * 1024


@dataclass(frozen=True)
class FileFacts:
    """``sockets`` are the paths of control sockets; ``free`` maps a directory to its file system's free bytes.

    ``logs`` is how many programs write to ``log``, ``written`` what lies there already (bytes).
    """

    sockets: tuple[str, ...]
    free: dict[str, int]
    log: str
    logs: int
    written: int


def read(paths: Paths, fleet: Fleet | None) -> FileFacts:
    """Read the facts; directories that do not exist yet count by their nearest parent."""
    services = fleet.services.values() if fleet else ()
    names = [f"{service.name}-green-{service.instances}" for service in services]
    users = {f"{service.name}-green-{service.instances}": service.user for service in services}
    written = sum(entry.stat().st_size for entry in paths.log.glob("*.log*")) if paths.log.is_dir() else 0
    return FileFacts(
        sockets=(str(paths.supervisor_socket), *(paths.control(name, user=users[name]) for name in names)),
        free={str(directory): _free(directory) for directory in (paths.lib, paths.log)},
        log=str(paths.log),
        logs=sum(2 * service.instances for service in services) + 2,
        written=written,
    )


def judge(facts: FileFacts) -> Iterator[Finding]:
    """Judge paths and room."""
    longest = max(facts.sockets, key=lambda path: len(os.fsencode(path)))
    length = len(os.fsencode(longest))
    if length > SOCKET_PATH_MAX:
        yield broken(
            "socket path",
            f"{longest} is {length} bytes long, the kernel takes {SOCKET_PATH_MAX}",
            why="the daemon cannot bind its control socket",
            mend="choose a --home with a shorter path",
        )
    else:
        yield fine("socket path", f"{length} of at most {SOCKET_PATH_MAX} bytes")
    for directory, room in facts.free.items():
        if room < 16 * _MIB:
            yield broken(
                "disk",
                f"{room // _MIB:,} MiB are free for {directory}",
                why="the journal cannot be written, and so no change begins",
                mend=f"free room there: du -xh {directory} | sort -h | tail",
            )
    wanted = max(0, facts.logs * LOG_BYTES - facts.written)
    free = facts.free[facts.log]
    if free < wanted:
        yield warning(
            "log space",
            f"{free // _MIB:,} MiB are free for {facts.log}, its logs may grow by {wanted // _MIB:,} MiB",
            why="a full disk stops logs and the journal",
            mend="give the logs a file system of their own, or free room",
        )
    else:
        yield fine("log space", f"{free // _MIB:,} MiB free, logs may grow by {wanted // _MIB:,} MiB")


def _free(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
