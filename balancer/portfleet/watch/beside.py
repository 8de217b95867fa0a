"""Who else listens on the port of an instance: with SO_REUSEPORT the kernel gives it a share of the clients."""

from __future__ import annotations

from portfleet.apply.look import Look
from portfleet.core.paths import Paths
from portfleet.linux import sockdiag
from portfleet.store.log import Log
from portfleet.supervise.supervisor import ProgramInfo
from portfleet.watch.roster import Member


class Beside:
    """Looks every second. An instance with such a neighbour counts as one that fails its probes."""

    def __init__(self, paths: Paths, log: Log) -> None:
        self._paths, self._log = paths, log
        #: The listening sockets on each instance's port, when all were its own.
        self._own: dict[str, set[int]] = {}

    def look(self, members: list[Member], programs: dict[str, ProgramInfo]) -> None:
        """Look at ``members`` that have a process; those with other sockets than before are looked at.

        Raise OSError, and PortfleetError for what cannot be read.
        """
        by_port = {member.want.rule.port: member for member in members}
        inodes: dict[str, set[int]] = {member.name: set() for member in members}
        for listener in sockdiag.listeners():
            if listener.port in by_port:
                inodes[by_port[listener.port].name].add(listener.inode)
        changed = [one for one in members if one.beside or inodes[one.name] != self._own.get(one.name)]
        if not changed:
            return
        ports = {port: member.name for port, member in by_port.items()}
        found = Look(programs, self._paths, probe=False, ports=ports).beside(member.want for member in changed)
        for member in changed:
            member.beside = found.get(member.name, "")
            if member.beside:
                self._log.once("port-shared", about=member.name, instance=member.name, reason=member.beside)
            else:
                self._log.over("port-shared", about=member.name)
                self._own[member.name] = inodes[member.name]
