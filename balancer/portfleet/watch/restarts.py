"""When to start a program again that supervisord has given up (FATAL): capped exponential back-off with jitter."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

#: Seconds of serving after which the next crash is counted as the first again.
_STABLE = 60.0
#: Seconds of life that are short, and after how many short lives in a row supervisord is not left to go on at once. Of
#: those that end within its startsecs it sees to itself: so many, and it gives up (FATAL).
_SHORT, _LOOPING, _STARTSECS = 10.0, 3, 1.0


@dataclass
class Backoff:
    """The waits of one program: 1, 2, 4 … ``cap`` seconds, each ± 20 % so that a fleet does not go in step.

    ``short``: lives in a row that were short; ``started``: those of them that supervisord takes for a good start.
    """

    random: Random
    cap: float = 60.0
    tries: int = 0
    due: float | None = field(default=None)
    short: int = 0
    started: int = 0

    def schedule(self, now: float) -> float:
        """Plan the next try and return the seconds until then; if one is planned already, nothing changes."""
        if self.due is None:
            self.tries += 1
            # The exponent has an end too: 2.0 ** 1024 is an OverflowError after some hours of crash loop.
            self.due = now + min(self.cap, 2.0 ** min(self.tries - 1, 10)) * self.random.uniform(0.8, 1.2)
        return self.due - now

    def is_due(self, now: float) -> bool:
        """True once, when the planned moment has come."""
        if self.due is None or now < self.due:
            return False
        self.due = None
        return True

    def ready(self, now: float) -> bool:
        """Return whether nothing is planned, or the planned moment has come: for a first try that need not wait."""
        return self.due is None or self.is_due(now)

    def ran(self, seconds: float) -> None:
        """Note how long the program served: long enough and the next crash is the first again."""
        if seconds >= _STABLE:
            self.tries, self.due = 0, None

    def lived(self, seconds: float) -> None:
        """Note how long a process lived that has ended by itself."""
        self.short = self.short + 1 if seconds < _SHORT else 0
        self.started = 0 if not self.short else self.started + (seconds >= _STARTSECS)

    @property
    def unsteady(self) -> bool:
        """Return whether a second short life has followed the first."""
        return self.short >= _LOOPING - 1

    @property
    def looping(self) -> bool:
        """Return whether it ends soon after every start, though later than supervisord takes for a failed one."""
        return self.started >= _LOOPING
