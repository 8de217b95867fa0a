"""Which process each member has: supervisord's, or one that outlived its supervisord; noted for other commands."""

from __future__ import annotations

from collections.abc import Callable

from portfleet.core.paths import Paths
from portfleet.store.log import Log
from portfleet.supervise import adopted
from portfleet.supervise.supervisor import ProgramInfo
from portfleet.watch.deaths import Deaths
from portfleet.watch.roster import Member, Roster
from portfleet.watch.supervision import SUPERVISOR, Supervision


class Processes:
    """Finds members' processes; ``missing`` sees to a member that has none.

    ``programs``: what supervisord said last, by name; ``adopted``: members whose process outlived its supervisord.
    """

    def __init__(
        self,
        *,
        paths: Paths,
        roster: Roster,
        deaths: Deaths,
        supervision: Supervision,
        log: Log,
        missing: Callable[[Member, ProgramInfo | None], None],
    ) -> None:
        self._paths, self._roster, self._deaths = paths, roster, deaths
        self._supervision, self._log, self._missing = supervision, log, missing
        self.programs: dict[str, ProgramInfo] = {}
        self.adopted: set[str] = set()
        #: True when the processes that run were found once: from then on a death is noticed.
        self.looked = False
        self._noted: dict[str, tuple[int, int]] = {}
        #: The supervisord under which all processes were looked at: those of an earlier one can only become fewer.
        self._known: int | None = None

    def find(self, programs: dict[str, ProgramInfo]) -> None:
        """Find each member's process among ``programs`` of supervisord and those adopted, and have its end told."""
        self.programs = programs
        watched = self._deaths.alive()
        alive = adopted.alive(self._paths, watched) | watched  # what was noted may have been removed
        if (supervisord := self._deaths.pids.get(SUPERVISOR)) != self._known:
            self._known = supervisord
            has = {name for name, info in programs.items() if info.pid is not None}
            alive = {n: pid for n, pid in adopted.started(self._paths).items() if n not in has} | alive
        pids, local = self._deaths.pids, self._roster.local
        for name, member in self._roster.members.items():
            info, pid = programs.get(name), alive.get(name)
            as_before = info is not None and info.pid == pid == pids.get(name) and name not in self.adopted
            if name in local and (pid is None or not as_before):
                with self._log.costs(name):
                    self._find_one(member, info, pid)
        self.looked = True

    def _find_one(self, member: Member, info: ProgramInfo | None, alive: int | None) -> None:
        """Find one member's process: supervisord has it by ``info``, and the one noted before may be ``alive``."""
        name, pid = member.name, alive
        if not self._supervision.alive:  # it has died during this look: one that it does not list may still be alive
            if (last := (info.pid if info else None) or alive) is not None:
                self._deaths.watch(name, last)
            return
        if pid is not None and (info is None or info.pid != pid) and self._supervision.is_lost(pid):
            self._adopt(name, pid, info)
        else:
            self.adopted.discard(name)
            pid = info.pid if info else None
        if pid is None or not self._deaths.watch(name, pid):
            self._missing(member, info)

    def _adopt(self, name: str, pid: int, info: ProgramInfo | None) -> None:
        if name not in self.adopted:
            self.adopted.add(name)
            self._log("adopted", instance=name, pid=pid, reason="it outlived its supervisord")
        if info is not None:
            self._supervision.forget(name)

    def note(self) -> None:
        """Note the processes that are watched, for a watcher or a command that comes when files are gone."""
        processes = {name: seen for name, seen in self._deaths.started().items() if name != SUPERVISOR}
        if processes == self._noted and self._paths.processes.exists():
            return
        try:
            adopted.note(self._paths.processes, processes)
        except OSError as error:
            self._log.once("cannot-write", about="processes", file=self._paths.processes, reason=error.strerror)
        else:
            self._noted = processes
            self._log.over("cannot-write", about="processes")
