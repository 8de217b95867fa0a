"""Looks after processes that are no instances: they too outlive a supervisord, and must not be started a second time.

They are the data plane's own, and that of the metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from portfleet.core.paths import Paths
from portfleet.core.program import METRICS, Program
from portfleet.store.log import Log
from portfleet.supervise import adopted
from portfleet.supervise.supervisor import ProgramInfo
from portfleet.watch.deaths import Deaths
from portfleet.watch.roster import Roster
from portfleet.watch.starts import Starts
from portfleet.watch.supervision import Supervision


class OwnPrograms:
    """The programs beside the instances; with the kernel's data plane and without metrics there is none."""

    def __init__(
        self, *, paths: Paths, roster: Roster, deaths: Deaths, supervision: Supervision, starts: Starts, log: Log
    ) -> None:  # fmt: skip
        self._paths, self._roster, self._deaths, self._supervision = paths, roster, deaths, supervision
        self._starts, self._log = starts, log

    @property
    def programs(self) -> Mapping[str, Program]:
        """Those programs by name."""
        return self._roster.desired.beside if self._roster.desired is not None else {}

    @property
    def watched(self) -> bool:
        """Whether the end of each would be told. One that is not has not been noted either.

        If supervisord died then, the next one would start it a second time, on a port that is taken.
        """
        return self.programs.keys() <= self._deaths.pids.keys()

    def ended(self, name: str, pid: int) -> None:
        """Tell of the end of a program, which supervisord starts again."""
        reason = "it is started again at once"
        self._log("metrics-died" if name == METRICS else "data-plane-died", program=name, pid=pid, reason=reason)

    def find(self, known: Mapping[str, ProgramInfo]) -> Iterator[str]:
        """Watch their processes, ``known`` to supervisord or adopted; yield those that ended after an adoption.

        None is yielded while a command works on the fleet, which may be what ended them, or after supervisord has died.
        """
        watched = self._deaths.alive()
        alive = adopted.alive(self._paths, watched) | watched
        for name in self.programs:
            info, pid = known.get(name), alive.get(name)
            if pid is None or (self._supervision.alive and not self._supervision.is_lost(pid)):
                pid = info.pid if info else None
            if pid is not None:
                self._deaths.watch(name, pid)
            elif info is None and (self._paths.programs / f"{name}.adopted").exists() and not self._busy():
                yield name

    def _busy(self) -> bool:
        """Return whether it is not for this look to tell that one is gone."""
        services = self._roster.desired.services if self._roster.desired is not None else {}
        return not self._supervision.alive or any(self._roster.busy(service) for service in services)

    async def start(self, name: str) -> None:
        """Have supervisord run a program; the next look that finds it away tries again."""
        if trouble := await self._starts.start(name):
            self._log.once("cannot-start", about=name, instance=name, reason=trouble)
        else:
            self._log.over("cannot-start", about=name)
