"""Looks at the machine's limits now and then, logs what changes, and writes run/warnings.json for `status`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from portfleet.core.paths import Paths
from portfleet.core.printable import quantity
from portfleet.core.program import WATCHER
from portfleet.core.status import Status
from portfleet.dataplane.interface import Connections, Hazard, Room
from portfleet.store import warnings
from portfleet.store.clock import now
from portfleet.store.log import Log
from portfleet.store.warnings import Warned
from portfleet.watch import limits
from portfleet.watch.limits import Near

#: For how many seconds a dropped connection is told of.
_LATELY = 60.0
#: How many processes' descriptors are looked at each time at least, 10 µs each; and the share of its limit from which
#: on a process is looked at every time.
_SOME, _MANY = 50, 0.25
#: For how many seconds an unexpected error is told of.
_TOLD = 3600.0


class LimitMonitor:
    """Keeps what is warned of."""

    def __init__(self, paths: Paths, connections: Connections, log: Log) -> None:
        self._paths, self._connections, self._log = paths, connections, log
        #: Descriptors of the instances that have many open, when they were last looked at; and who is looked at next.
        self._many: dict[str, limits.Descriptors] = {}
        self._turn: list[str] = []
        self._dropped: int | None = None
        self._lately = (0, 0.0)
        self.warned: dict[str, Warned] = {}
        #: The data plane's room for connections at the last look.
        self.room: Room | None = None
        warnings.write(paths.warnings, ())

    def look(self, pids: Mapping[str, int], said: Mapping[str, Status], hazards: Iterable[Hazard] = ()) -> None:
        """Look; ``pids`` are the instances' processes, ``said`` and ``hazards`` as `limits.judge` has them."""
        began = time.monotonic()
        room = self.room = self._connections.room()
        self._read_descriptors(pids)
        found = limits.judge(
            hazards=hazards,
            room=room,
            dropped=self._drops(room, began),
            files=limits.read_files(),
            processes=self._many,
            said=said,
        )
        found += self._unexpected(began)
        fresh = {entry.name: entry for entry in found}
        before = self.warned
        self.warned = {
            name: Warned(name, before[name].since if name in before else now(), entry.text, entry.hint)
            for name, entry in fresh.items()
        }
        for name in fresh.keys() - before.keys():
            self._log("warning", about=name, reason=fresh[name].text, hint=fresh[name].hint)
        for name in before.keys() - fresh.keys():
            self._log("warning-over", about=name)
        if self.warned != before:
            warnings.write(self._paths.warnings, self.warned.values())

    def _read_descriptors(self, pids: Mapping[str, int]) -> None:
        """Look at the descriptors of those that have many open, and of some of the others, in turn."""
        if not self._turn:
            self._turn = list(pids)
        some, self._turn = self._turn[-_SOME:], self._turn[:-_SOME]
        for name in {*some, *self._many}:
            seen = limits.read_descriptors(pids[name]) if name in pids else None
            if seen is not None and seen.used >= _MANY * seen.limit:
                self._many[name] = seen
            else:
                self._many.pop(name, None)

    def write_again(self) -> None:
        """Write down what is warned of, whose file was removed."""
        warnings.write(self._paths.warnings, self.warned.values())

    def _unexpected(self, at: float) -> list[Near]:
        """Return what went wrong in the watcher itself within the last hour."""
        return [
            Near(
                f"unexpected:{about}",
                f"{quantity(trouble.count, 'unexpected error')} about {about}, the last: {trouble.words}",
                f"see the traceback, and report it: portfleet logs {WATCHER}",
            )
            for about, trouble in self._log.troubles.items()
            if at - trouble.at < _TOLD
        ]

    def _drops(self, room: Room | None, at: float) -> int:
        """Return how many connections found no room in the last minute."""
        if room is None:
            return 0
        new = room.dropped - self._dropped if self._dropped is not None else 0
        self._dropped = room.dropped
        count, since = self._lately
        if new > 0:
            self._lately = (new + (count if at - since < _LATELY else 0), at)
        elif at - since >= _LATELY:
            self._lately = (0, since)
        return self._lately[0]
