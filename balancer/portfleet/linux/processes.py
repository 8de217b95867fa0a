"""Processes by /proc: an instance's whole tree, and whose a listening socket is."""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

_DESCRIPTORS = re.compile(r"^Max open files\s+(\d+)\s+(\d+)", re.MULTILINE)


def tree(pid: int) -> Iterator[int]:
    """Return ``pid`` and all its descendants."""
    yield pid
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child))


def owned(pids: Iterable[int], inodes: set[int]) -> set[int]:
    """Return those of the socket ``inodes`` that one of ``pids`` has open.

    Listening sockets have low descriptors, so the look-up ends early also in a process with 20,000 connections.
    """
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: set[int] = set()
    for pid in pids:
        for link in _links(pid):
            if link in wanted:
                found.add(wanted[link])
                if len(found) == len(wanted):
                    return found
    return found


def descriptor_limits(pid: int) -> tuple[int, int]:
    """Return a process's soft and hard limit of descriptors; raises OSError if there is no such process.

    For a process of another user prlimit(2) takes CAP_SYS_RESOURCE; /proc/PID/limits, which everybody may read, takes
    50 times as long (20 µs).
    """
    try:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except PermissionError:
        pass
    found = _DESCRIPTORS.search(Path(f"/proc/{pid}/limits").read_text())
    if found is None:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))  # a zombie has an empty table
    return int(found[1]), int(found[2])


def owner_of(inode: int) -> str:
    """Say whose a socket is, as ``redis-server (pid 123)``, for an error message."""
    for name in os.listdir("/proc"):
        if name.isdigit() and owned([int(name)], {inode}):
            try:
                return f"{Path('/proc', name, 'comm').read_text().strip()} (pid {name})"
            except OSError:
                continue
    return "an unknown process"


def _links(pid: int) -> Iterator[str]:
    try:
        names = sorted(os.listdir(f"/proc/{pid}/fd"), key=int)
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue


def set_nice(value: int) -> bool:
    """Set the nice value of the calling thread (Linux: of no other), which what it starts inherits.

    Return False without the right to it: CAP_SYS_NICE of the first user namespace (capabilities(7)).
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, value)
    except PermissionError:
        return False
    return True
