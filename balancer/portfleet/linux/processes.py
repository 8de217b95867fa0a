"""Processes by /proc: an instance's whole tree, what one of them is, and whose a socket is.

Names of processes are bytes that each process chooses for itself (prctl(2), PR_SET_NAME), so files are read as bytes.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from portfleet.core.printable import printable

_DESCRIPTORS = re.compile(r"^Max open files\s+(\d+)\s+(\d+)", re.MULTILINE)
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """One process: its parent, process group and session, start (clock ticks since boot), processor time (seconds) and
    resident memory (bytes)."""

    parent: int
    group: int
    session: int
    started: int
    cpu: float
    memory: int


def read(pid: int) -> Process | None:
    """Read /proc/PID/stat (proc_pid_stat(5)); None if there is no such process, or only a zombie."""
    try:
        stat = _stat(pid)
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # after the name, which may hold anything, come the fields from the third
    if fields[0] in (b"Z", b"X"):
        return None
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS
    parent, group, session = map(int, fields[1:4])
    return Process(parent, group, session, int(fields[19]), cpu, int(fields[21]) * _PAGE)


def _stat(pid: int) -> bytes:
    """Return /proc/PID/stat, in half the time that pathlib takes: there may be thousands. Raise OSError."""
    descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def table() -> dict[int, Process]:
    """Return every process that can be seen, by pid; 4 ms for three hundred."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return {pid: process for pid in pids if (process := read(pid)) is not None}


def environment(pid: int) -> dict[bytes, bytes]:
    """Return the environment a process was started with; empty if it may not be read, or was overwritten.

    Some processes do so to show a title of their own (redis, nginx, PostgreSQL).
    """
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    return {name: value for name, found, value in (entry.partition(b"=") for entry in data.split(b"\0")) if found}


def command_line(pid: int) -> list[bytes]:
    """Return the words of a process's command; none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if there is none."""
    process = read(pid)
    return process.started if process else None


def age(pid: int) -> float | None:
    """Return for how many seconds a process has been there; None if there is none."""
    started = start_time(pid)
    return None if started is None else time.clock_gettime(time.CLOCK_BOOTTIME) - started / _TICKS


def parent(pid: int) -> int | None:
    """Return a process's parent; None if there is no such process."""
    process = read(pid)
    return process.parent if process else None


def tree(pid: int) -> Iterator[int]:
    """Return ``pid`` and all its descendants."""
    left, seen = [pid], {pid}
    while left:
        one = left.pop()
        yield one
        for child in _children(one):
            if child not in seen:
                seen.add(child)
                left.append(child)


def within(pid: int, root: int) -> bool:
    """Return whether ``pid`` is ``root`` or one of its descendants."""
    seen = set[int]()
    one: int | None = pid
    while one and one != root and one not in seen:  # a pid may be given anew on the way up
        seen.add(one)
        one = parent(one)
    return one == root


def forked(pid: int, parent: int) -> bool:
    """Return whether a process came from ``parent`` by fork alone, as a worker does, and has run no program since.

    Each execve(2) puts code and stack at random addresses anew (randomize_va_space), and a fork keeps them. False if
    they are not to be seen: it takes the right to trace both processes (proc_pid_stat(5)).
    """
    image = _image(pid)
    return image is not None and image == _image(parent)


def _image(pid: int) -> tuple[int, int] | None:
    """Return where a process's code and stack begin; None if there is no such process or it may not be seen."""
    try:
        fields = _stat(pid).rpartition(b")")[2].split()
    except OSError:
        return None
    code, stack = int(fields[23]), int(fields[25])
    return (code, stack) if stack else None


def name_of(pid: int) -> str:
    """Return what a process calls itself, for people; "" if there is none."""
    try:
        return printable(Path("/proc", str(pid), "comm").read_bytes().decode(errors="replace").strip())
    except OSError:
        return ""


def _children(pid: int) -> Iterator[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        try:
            yield from map(int, Path(f"/proc/{pid}/task/{task}/children").read_bytes().split())
        except OSError:
            continue


def owned(pids: Iterable[int], inodes: set[int]) -> set[int]:
    """Return those of the socket ``inodes`` that one of ``pids`` has open; the look-up ends with the last of them.

    Listening sockets have low descriptors, which come first, so that it ends early also in a process with 20,000
    connections.
    """
    found: set[int] = set()
    open_there = sockets(pids)
    while len(found) < len(inodes) and (inode := next(open_there, None)) is not None:
        if inode in inodes:
            found.add(inode)
    return found


def descriptor_limits(pid: int) -> tuple[int, int]:
    """Return a process's soft and hard limit of descriptors; raises OSError if there is no such process.

    For a process of another user prlimit(2) takes CAP_SYS_RESOURCE; /proc/PID/limits, which every user may read, takes
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


def sockets(pids: Iterable[int]) -> Iterator[int]:
    """Return the inode of every socket that one of ``pids`` has open, in the order of their descriptors."""
    for pid in pids:
        for link in _links(pid):
            if link.startswith("socket:["):
                yield int(link[8:-1])


def owner_of(inode: int, among: Iterable[int] | None = None) -> str:
    """Return whose a socket is, as ``redis-server (pid 123)``, for an error message.

    ``among``: the processes that are looked at; None: all, which takes 30 ms beside 1,024 instances.
    """
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit()) if among is None else among
    for pid in pids:
        if owned([pid], {inode}) and (words := name_of(pid)):
            return f"{words} (pid {pid})"
    return "an unknown process"


def _links(pid: int) -> Iterator[str]:
    """Return what the descriptors of a process are, ascending, as the kernel lists them (proc_readfd_common)."""
    try:
        folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):  # closed meanwhile
                    yield os.readlink(entry.name, dir_fd=folder)
    except OSError:  # the process has ended
        return
    finally:
        os.close(folder)
