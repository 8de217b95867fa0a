"""What is left of an instance when the process that supervisord started for it has ended: children, and daemons.

What a crash leaves behind is ended (SIGTERM, after ten seconds SIGKILL): it keeps the port from the next start, or
shares it with that and gets some of its clients. A daemon that has put itself into the
background (its first process ended with 0, and it listens on the port) is named and left alone, and not started again:
each start would leave another one.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import inf

from portfleet.core.paths import Paths
from portfleet.core.states import RUNNING
from portfleet.linux import processes, sockdiag
from portfleet.store.log import Log
from portfleet.supervise import adopted
from portfleet.supervise.exit_report import Ended, last_exit
from portfleet.supervise.members import Members, Process, in_background, send
from portfleet.supervise.supervisor import ProgramInfo
from portfleet.watch.ejector import Ejector
from portfleet.watch.roster import Member, Roster

#: Seconds between SIGTERM and SIGKILL.
_DEADLINE = 10.0
#: Seconds between two looks at all processes: while an instance is on the way back or something is left of one; and at
#: rest, when only what ended unseen can have left something.
_HURRIED, _CALM = 0.2, 60.0


class Remains:
    """Sees to remains whenever all processes were looked at; ``give_up`` has supervisord not start a program again."""

    def __init__(
        self, paths: Paths, roster: Roster, ejector: Ejector, log: Log, give_up: Callable[[str], None]
    ) -> None:
        self._paths, self._roster, self._ejector = paths, roster, ejector
        self._log, self._give_up = log, give_up
        #: Since when remains are told to end, by instance.
        self._told: dict[str, float] = {}
        #: The process whose end has left them, if it was seen to end: others that were started since may have failed.
        self._leaders: dict[str, int] = {}
        #: Who is in the background, and by which process.
        self._background: dict[str, Process] = {}
        #: When the last look at all began. Whatever ends during one has another follow.
        self._looked_at = -inf

    def ended(self, name: str, pid: int) -> None:
        """Note that an instance's process has ended."""
        self._leaders.setdefault(name, pid)

    def holds(self, name: str) -> bool:
        """Return whether an instance must not be started now: something of an earlier start is there yet."""
        daemon = self._background.get(name)
        return name in self._told or (daemon is not None and daemon.alive)

    def due(self, *, away: bool) -> bool:
        """Return whether it is time to look at all processes; ``away``: an instance is on the way back."""
        hurried = away or self._told or self._background or self._leaders
        return time.monotonic() >= self._looked_at + (_HURRIED if hurried else _CALM)

    def hurry(self) -> None:
        """Have it be time for a look."""
        self._looked_at = -inf

    def all(
        self, ask: Callable[[], dict[str, ProgramInfo]], supervisord: int | None
    ) -> tuple[dict[str, ProgramInfo], Members]:
        """Look at all processes of all instances, which takes 10 ms for some hundreds, longer where much else runs.

        ``ask`` asks supervisord for its programs. It is asked once more afterwards, and that is returned with them: by
        a list from before, what is started meanwhile would be taken for what an earlier start has left.
        """
        self._looked_at = time.monotonic()
        with ExitStack() as failed:
            failed.callback(self.hurry)  # nothing was found, so the next look is to be soon
            leaders = {name: info.pid for name, info in ask().items() if info.pid is not None}
            ports = {one.want.rule.port: name for name, one in self._roster.members.items() if one.local}
            found = adopted.members(self._paths, leaders, supervisor=supervisord, ports=ports)
            programs = ask()
            failed.pop_all()
        return programs, found

    def look(self, programs: Mapping[str, ProgramInfo], members: Members, watched: Mapping[str, int]) -> None:
        """See to what earlier starts have left, with ``members`` as they were found just now.

        ``watched`` are the processes, by instance, that are known to be alive.
        """
        alive = adopted.alive(self._paths, watched)
        for kept in (self._told, self._leaders, self._background):
            for name in kept.keys() - self._roster.members.keys():
                del kept[name]
        for name, member in self._roster.members.items():
            if member.local:
                with self._log.costs(name):
                    info = programs.get(name)
                    leader = info.pid if info is not None and info.pid is not None else alive.get(name)
                    if leader is None and info is None and name not in self._leaders:
                        leader = members.leader(name)  # it outlived its supervisord, and was never noted
                    if leader != watched.get(name) and leader is not None and processes.start_time(leader) is None:
                        leader = None
                    self._look(member, info, leader, members)

    def _look(self, member: Member, info: ProgramInfo | None, leader: int | None, members: Members) -> None:
        """See to what earlier starts of a member have left. ``leader`` is its present process."""
        name = member.name
        if leader is None and info is not None and info.state in RUNNING:
            return  # supervisord has not noticed the end yet; how it ended is not known
        left = [one for one in members.left(name, leader) if one.alive]
        if not left:
            self._told.pop(name, None)
            self._background.pop(name, None)
            self._leaders.pop(name, None)
            return
        if (
            leader is None
            and last_exit(self._paths, name, self._leaders.get(name)) == Ended(0)
            and (found := _daemon(left, member.want.rule.port))
        ):
            self._name(member, *found)
        elif member.startable and self._roster.busy(member.service.name) is None:
            self._end(name, left)  # what a verb or an operation ends, it ends by itself

    def _name(self, member: Member, daemon: Process, owner: str) -> None:
        name, words = member.name, in_background(owner, member.want.rule.port)
        self._log.once("in-background", about=name, instance=name, pid=daemon.pid, reason=words)
        self._ejector.note(name, words)
        if self._background.get(name) != daemon:
            self._background[name] = daemon
            self._give_up(name)

    def _end(self, name: str, left: list[Process]) -> None:
        now = time.monotonic()
        if name not in self._told:
            self._told[name] = now
            pids = ",".join(str(process.pid) for process in left)
            self._log("ending-remains", instance=name, pids=pids, reason="left by a start of it that has ended")
            send(left, signal.SIGTERM)
        elif now - self._told[name] > _DEADLINE:
            send(left, signal.SIGKILL)


def _daemon(left: list[Process], port: int) -> tuple[Process, str] | None:
    """Return the one of some processes that listens on ``port``, and what it is called."""
    inodes = {listener.inode for listener in sockdiag.listeners() if listener.port == port}
    for process in left:
        if found := processes.owned([process.pid], inodes):
            return process, processes.owner_of(min(found))
    return None
