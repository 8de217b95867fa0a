"""Short time slices for instances, which take a processor at once when a request wakes them.

Beside them run processes that compute for long: interpreters that start, a build, a backup. A slice is 0.7 to 2.8 ms
long, and who wakes waits for its end, unless its own is shorter. An instance gets no more of the processor by that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from portfleet.linux import processes
from portfleet.linux.scheduling import SHORT_SLICE, set_slice
from portfleet.store.log import Log
from portfleet.watch.roster import Member


class TimeSlices:
    """Sees to each process once, when it listens: what it did before that, to start, has no hurry."""

    def __init__(self, log: Log) -> None:
        self._log = log
        #: (port, inode) of the listeners whose processes were seen to.
        self._done: set[tuple[int, int]] = set()

    def look(self, members: Iterable[Member], pids: Mapping[str, int], there: Iterable[tuple[int, int]]) -> None:
        """See to the processes of ``members`` that listen, below those in ``pids``; ``there``: all (port, inode)."""
        ports = {member.want.rule.port: pids[member.name] for member in members}
        ours = {pair for pair in there if pair[0] in ports}
        self._done &= ours
        due: dict[int, set[int]] = {}
        for port, inode in ours - self._done:
            due.setdefault(port, set()).add(inode)
        for port, inodes in due.items():
            for pid in processes.tree(ports[port]):
                if mine := processes.owned([pid], inodes):
                    self._shorten(pid)
                    self._done |= {(port, inode) for inode in mine}

    def _shorten(self, pid: int) -> None:
        try:
            set_slice(pid, SHORT_SLICE)
        except ProcessLookupError:
            pass
        except OSError as error:
            costs = "clients may wait some milliseconds for instances beside busy processes"
            self._log.once("unprivileged", refused=f"a shorter time slice ({error.strerror})", costs=costs)
