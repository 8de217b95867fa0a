"""How processes are told to end, and when they are told again or killed."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass

#: Seconds after which the second SIGTERM is sent once more: one that comes before the process has taken in the first is
#: lost (signal(7)), and with it half of what a process has to end. And from one SIGKILL to the next, for what it has
#: started meanwhile.
_REPEATED = 0.2
#: Seconds that a process may outlive SIGKILL, as one that waits for a disk does.
_GRACE = 30.0


@dataclass(frozen=True)
class Ending:
    """How processes end after their stop signal: SIGTERM once more at ``again``, SIGKILL at ``kill``.

    ``kill`` is in seconds from the first signal, beside the service's ``stop_timeout``; ``again`` is a share of those
    seconds (None: never). Our daemon finishes after the first SIGTERM what is on its way and drains its connections;
    the second ends that. A daemon that ends by another signal than SIGTERM gets no second one: many take it for an
    order to drop everything, as redis takes a second SIGINT.
    """

    again: float | None
    kill: float = 0.0


#: For those with slots or connections no more: what is on its way is finished.
EMPTIED = Ending(again=0.5)
#: For a fleet or a service that is taken down: time to save something, not to let connections finish.
HURRIED = Ending(again=0.0)


class Order:
    """The ending of one instance under way: its stop ``signal``, and when it is told more, in seconds from that."""

    def __init__(self, how: Ending, stop: signal.Signals, timeout: float) -> None:
        self.signal = stop
        self._killed_at = how.kill + timeout
        self._limit = self._killed_at + _GRACE
        self._again = None if how.again is None or stop != signal.SIGTERM else how.again * self._killed_at

    def due(self, spent: float) -> Iterable[signal.Signals]:
        """Yield what it has to be told ``spent`` seconds after the first signal, each once in a while."""
        if self._again is not None and spent >= self._again:
            self._again = spent + _REPEATED
            yield signal.SIGTERM
        if spent >= self._killed_at:
            self._killed_at = spent + _REPEATED
            yield signal.SIGKILL

    def given_up(self, spent: float) -> bool:
        """Return whether it has outlived SIGKILL for so long that nothing helps."""
        return spent > self._limit
