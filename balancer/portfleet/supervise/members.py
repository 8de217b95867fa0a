"""Which processes are an instance's: its whole tree, whoever its processes' parent is by now.

A pid alone does not stand for an instance: its command may be a shell that does not exec, its daemon may fork, and what
is left of it keeps the port when that pid has ended. A process belongs to an instance if

- it is the one that supervisord has started for it, or that the watcher has noted, or a descendant of it,
- it is in the process group or in the session of such a process (supervisord makes each child the leader of a group),
- it carries PORTFLEET_INSTANCE and this home's PORTFLEET_CONTROL in its environment, or
- it is an orphan that came to supervisord (`inside`), and listens on the instance's port.

A start time goes with every pid, so that a pid that was given to another process stands for nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress

from portfleet.core.model import parse_instance
from portfleet.core.paths import Paths
from portfleet.core.value import value
from portfleet.linux import processes, sockdiag


@value
class Process:
    """A process by its pid and when it ``started``, in clock ticks since boot (None: it had ended already)."""

    pid: int
    started: int | None

    @property
    def alive(self) -> bool:
        """Return whether it still runs."""
        return self.started is not None and processes.start_time(self.pid) == self.started


class Members:
    """One look at all processes. ``leaders`` are supervisord's processes by program, the watcher's among them.

    ``noted`` are the processes that the watcher has noted, also those that have ended; ``supervisor`` is supervisord's
    process, ``ports`` are the ports that instances listen on, by which orphans are told.
    """

    def __init__(
        self, paths: Paths, leaders: Mapping[str, int], *, noted: Mapping[str, Process], supervisor: int | None,
        ports: Mapping[int, str],
    ) -> None:  # fmt: skip
        self._found: dict[str, list[Process]] = {}
        self._ports = ports
        table = processes.table()
        self._leading = frozenset(leading(table))
        there = {name: one.pid for name, one in noted.items() if _may_lead(one, table)}
        owner = {pid: name for name, pid in {**there, **leaders}.items() if pid in table}
        groups = {pid: name for name, pid in {**there, **leaders}.items()}
        for pid in sorted(table, key=lambda pid: (table[pid].started, pid)):  # parents before their children
            one = table[pid]
            if pid in (supervisor, os.getpid()):
                continue
            name = owner.get(pid) or owner.get(one.parent) or groups.get(one.group) or groups.get(one.session)
            name = name or named(paths, pid) or (self._by_port(pid) if one.parent == supervisor else None)
            if name is not None:
                owner[pid] = groups[pid] = name
                self._found.setdefault(name, []).append(Process(pid, one.started))

    def names(self) -> list[str]:
        """Return the instances that have a process."""
        return [name for name in self._found if parse_instance(name)]

    def of(self, name: str) -> list[Process]:
        """Return the processes of an instance, the eldest first."""
        return self._found.get(name, [])

    def leader(self, name: str) -> int | None:
        """Return the process of an instance that a supervisord has started, the eldest of its `leading` ones."""
        return next((one.pid for one in self.of(name) if one.pid in self._leading), None)

    def left(self, name: str, leader: int | None) -> list[Process]:
        """Return those of an instance's processes that are older than ``leader``: left by an earlier one."""
        others = [one for one in self.of(name) if one.pid != leader]
        began = processes.start_time(leader) if others and leader is not None else None
        return [one for one in others if began is None or (one.started or 0) < began]

    def daemon(self, name: str, port: int) -> Process | None:
        """Return an instance's daemon: the eldest process that listens on ``port``, or what that was forked from.

        So a master gets what its workers share with it, also one that has closed the port itself (haproxy -W), and no
        shell that started it does. None if none listens there.
        """
        inodes = {one.inode for one in sockdiag.listeners() if one.port == port}
        there = {one.pid: one for one in self.of(name)}
        pid = next((pid for pid in there if processes.owned([pid], inodes)), None)
        while pid is not None and (above := processes.parent(pid)) in there and processes.forked(pid, above):
            pid = above
        return there[pid] if pid is not None else None

    def _by_port(self, pid: int) -> str | None:
        inodes = {one.inode: self._ports[one.port] for one in sockdiag.listeners() if one.port in self._ports}
        return next((inodes[inode] for inode in processes.owned(processes.tree(pid), set(inodes))), None)


def leading(table: Mapping[int, processes.Process]) -> list[int]:
    """Return the processes that a supervisord may have started, the eldest first.

    Such a one leads its process group, and so can have no session of its own (setsid(2)), as one has that has put
    itself into the background.
    """
    found = (pid for pid, one in table.items() if one.group == pid != one.session)
    return sorted(found, key=lambda pid: table[pid].started)


def named(paths: Paths, pid: int) -> str | None:
    """Return the instance of this home that a process says in its environment to belong to."""
    found = processes.environment(pid)
    if not found.get(b"PORTFLEET_CONTROL", b"").startswith(os.fsencode(paths.run) + b"/"):
        return None
    name = found.get(b"PORTFLEET_INSTANCE", b"").decode(errors="replace")
    return name if parse_instance(name) else None


def send(found: Iterable[Process], number: signal.Signals) -> None:
    """Send a signal to those of the processes that still run, and to no other that has one's pid by now."""
    for process in found:
        if process.alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _may_lead(noted: Process, table: Mapping[int, processes.Process]) -> bool:
    """Return whether a noted pid is still that process's: it lives, or no other has got its number since.

    The kernel gives no pid to another process while it is the number of a group or a session.
    """
    return noted.pid not in table or table[noted.pid].started == noted.started


def in_background(owner: str, port: int) -> str:
    """Say of an instance that its daemon, ``owner``, left the process that supervisord watches."""
    name, _, pid = owner.removesuffix(")").partition(" (pid ")
    return f"it has put itself into the background ({name}, pid {pid}, listens on {port}); run it in the foreground"
