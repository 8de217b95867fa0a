"""Which probes leave out an instance's port: the loop behind a control socket serves the port too."""

from __future__ import annotations

from zlib import crc32

#: Of so many probes one goes through the port, if what else is seen has gone well: of daemons that are asked each time,
#: and of those that may rest, beside whose share of one look at all a connection is what costs.
_EVERY, _RESTING = 10, 60


class Ports:
    """How many probes may leave out the port, by instance."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        #: By instance, whether it might rest when a probe last went through its port.
        self._rests: dict[str, bool] = {}

    def left(self, name: str) -> int:
        """Return how many of an instance's next probes may leave out its port."""
        return self._left.get(name, 0)

    def leave(self, name: str, left: int) -> None:
        """Have so many of an instance's next probes leave out its port."""
        self._left[name] = left

    def left_out(self, name: str) -> None:
        """Take in that a probe has done without the port."""
        self._left[name] = max(0, self.left(name) - 1)

    def went_through(self, name: str, *, rests: bool) -> None:
        """Take in that a probe has gone well through the port of an instance, which ``rests`` from now on or not.

        The first time it is not as many for all: they are not to go through their ports at once.
        """
        every = _RESTING if rests else _EVERY
        self._left[name] = every - 1 if self._rests.get(name) == rests else crc32(name.encode()) % every
        self._rests[name] = rests

    def drop(self, name: str) -> None:
        """Forget an instance."""
        self._left.pop(name, None)
        self._rests.pop(name, None)
