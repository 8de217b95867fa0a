"""Who else listens on the port of an instance: with SO_REUSEPORT the kernel gives it a share of the clients."""

from __future__ import annotations

from portfleet.apply.look import Look
from portfleet.core.paths import Paths
from portfleet.store.log import Log
from portfleet.supervise.supervisor import ProgramInfo
from portfleet.watch.roster import Member


class Beside:
    """Looks every second. An instance with such a neighbour counts as one that fails its probes."""

    def __init__(self, paths: Paths, log: Log) -> None:
        self._paths, self._log = paths, log
        #: (port, inode) of the sockets on instances' ports, when all on that port were its instance's own.
        self._own: set[tuple[int, int]] = set()
        #: With which members and listeners no instance had a neighbour.
        self._alone: tuple[list[Member], frozenset[tuple[int, int]]] = ([], frozenset())

    def due(self, members: list[Member], there: frozenset[tuple[int, int]]) -> bool:
        """Return whether a look at ``members`` and the listeners that are ``there`` may find something else."""
        return there is not self._alone[1] or members != self._alone[0]

    def look(
        self, members: list[Member], there: frozenset[tuple[int, int]], programs: dict[str, ProgramInfo]
    ) -> list[Member]:
        """Look at ``members`` that have a process, those with other sockets than before; return whose neighbour is new.

        ``there``: (port, inode) of all listeners. Raise OSError, and PortfleetError for what cannot be read.
        """
        by_port = {member.want.rule.port: member for member in members}
        found_there = {pair for pair in there if pair[0] in by_port}
        ports_changed = {port for port, _ in found_there ^ self._own} & by_port.keys()
        changed = [member for port, member in by_port.items() if port in ports_changed or member.beside]
        self._own &= found_there
        if not changed:
            self._alone = members, there
            return []
        ports = {port: member.name for port, member in by_port.items()}
        found = Look(programs, self._paths, probe=False, ports=ports).beside(member.want for member in changed)
        fresh = [member for member in changed if found.get(member.name) and not member.beside]
        for member in changed:
            member.beside = found.get(member.name, "")
            if member.beside:
                self._log.once("port-shared", about=member.name, instance=member.name, reason=member.beside)
            else:
                self._log.over("port-shared", about=member.name)
                self._own |= {pair for pair in found_there if pair[0] == member.want.rule.port}
        return fresh
