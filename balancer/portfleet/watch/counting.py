"""What instances count (`status` of docs/control.md), asked only while metrics are read.

That is ten times as much to write and to read as whether they are ready.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from portfleet.core.status import Status
from portfleet.daemons.answers import Refused
from portfleet.daemons.exchange import Control
from portfleet.watch.repeats import Repeats

#: Seconds between two questions for what an instance counts, and for how long it is asked after the last who wants it.
_EVERY, _WANTED = 3.5, 150.0


class Counting:
    """What instances said last that they count."""

    def __init__(self, clock: Callable[[], float], pid_of: Callable[[str], int | None]) -> None:
        self._clock, self._repeats = clock, Repeats("status", clock, pid_of)
        self._until = 0.0
        #: By instance: what it counted when it last said so, and when it was asked, if it does not repeat that.
        self._counted: dict[str, Status] = {}
        self._asked: dict[str, float] = {}

    @property
    def wanted(self) -> bool:
        """Return whether counts have been read lately."""
        return self._until > 0

    def read(self) -> tuple[Mapping[str, Status], list[str]]:
        """Return what instances count, and which have to be told again to repeat it; it is wanted from now on."""
        self._until, lost = self._clock() + _WANTED, list[str]()
        for name, said in self._repeats.news():
            if isinstance(said, Status):
                self._counted[name] = said
            elif isinstance(said, Refused):
                self._repeats.refused(name)
            else:
                self._repeats.end(name)
                lost.append(name)
        return self._counted, lost

    def begin(self, name: str, place: Control) -> None:
        """Have the process at ``place`` repeat what it counts if that is wanted and it does not yet."""
        if self.wanted and self._repeats.at(name, place.pid, _EVERY) is None:
            self._repeats.begin(name, place, _EVERY)

    def ask(self, name: str, now: float) -> bool:
        """Return whether an instance that is asked each time is to be asked this time for what it counts."""
        if not self.wanted or now - self._asked.get(name, 0.0) < _EVERY:
            return False
        self._asked[name] = now
        return True

    def heard(self, name: str, answer: Status) -> None:
        """Take in what an instance answered when it was asked."""
        self._counted[name] = answer

    def expire(self, now: float) -> None:
        """Have instances stop repeating what they count if it has not been read lately."""
        if 0 < self._until <= now:
            self._until = 0.0
            self._repeats.end_all()

    def drop(self, name: str) -> None:
        """Forget an instance."""
        self._repeats.drop(name)
        self._counted.pop(name, None)
        self._asked.pop(name, None)
