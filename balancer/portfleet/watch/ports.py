"""Which probes leave out an instance's port: the loop behind a control socket serves the port too."""

from __future__ import annotations

from zlib import crc32

#: Of so many probes one goes through the port, if what else is asked has gone well: a connection costs ten times as
#: much as a look at the listener that would take it, and more than that beside an answer that is repeated.
_EVERY, _REPEATED = 10, 60


class Ports:
    """How many probes may leave out the port, by instance."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        #: By instance, whether it repeated its answer when a probe last went through its port.
        self._repeats: dict[str, bool] = {}

    def left(self, name: str) -> int:
        """Return how many of an instance's next probes may leave out its port."""
        return self._left.get(name, 0)

    def leave(self, name: str, left: int) -> None:
        """Have so many of an instance's next probes leave out its port."""
        self._left[name] = left

    def left_out(self, name: str) -> None:
        """Take in that a probe has done without the port."""
        self._left[name] = max(0, self.left(name) - 1)

    def went_through(self, name: str, *, repeats: bool) -> None:
        """Take in that a probe has gone well through the port of an instance, which ``repeats`` its answer or not.

        The first time it is not as many for all: they are not to go through their ports at once.
        """
        every = _REPEATED if repeats else _EVERY
        self._left[name] = every - 1 if self._repeats.get(name) == repeats else crc32(name.encode()) % every
        self._repeats[name] = repeats

    def drop(self, name: str) -> None:
        """Forget an instance."""
        self._left.pop(name, None)
        self._repeats.pop(name, None)
