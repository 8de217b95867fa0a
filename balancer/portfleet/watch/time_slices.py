"""Short time slices for instances, which take a processor at once when a request wakes them.

Beside them run processes that compute for long: interpreters that start, a build, a backup. A slice is 0.7 to 2.8 ms
long, and who wakes waits for its end, unless its own is shorter. An instance gets no more of the processor by that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from portfleet.linux import processes
from portfleet.linux.scheduling import set_slice
from portfleet.store.log import Log
from portfleet.watch.roster import Member

#: Seconds: less than the default of any number of processors, more than most requests take.
SHORT = 0.0001


class TimeSlices:
    """Sees to each process once, when it listens: what it did before that, to start, has no hurry."""

    def __init__(self, log: Log) -> None:
        self._log = log
        #: The first process of each start that was seen to, by instance.
        self._done: dict[str, int] = {}

    def look(self, members: Iterable[Member], pids: Mapping[str, int], there: Collection[tuple[int, int]]) -> None:
        """See to those of ``members`` that listen; ``there``: (port, inode) of all listeners."""
        due = {m.want.rule.port: m.name for m in members if self._done.get(m.name) != pids[m.name]}
        inodes: dict[str, set[int]] = {}
        for port, inode in there if due else ():
            if port in due:
                inodes.setdefault(due[port], set()).add(inode)
        for name, mine in inodes.items():
            for pid in processes.tree(pids[name]):
                if processes.owned([pid], mine):
                    self._shorten(pid)
                    self._done[name] = pids[name]
        self._done = {name: pid for name, pid in self._done.items() if pids.get(name) == pid}

    def _shorten(self, pid: int) -> None:
        try:
            set_slice(pid, SHORT)
        except ProcessLookupError:
            pass
        except OSError as error:
            costs = "clients may wait some milliseconds for instances beside busy processes"
            self._log.once("unprivileged", refused=f"a shorter time slice ({error.strerror})", costs=costs)
