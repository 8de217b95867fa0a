"""A clock that stands still but for who sleeps on it."""

from __future__ import annotations

import time

from portfleet.store.clock import Clock

#: 2026-01-31T12:00:00Z.
NOON = 1_769_860_800


class FakeClock(Clock):
    """Begins at noon and goes on only while something sleeps.

    ``real``: seconds that really pass with each sleep, for tests in which a real process is to take a signal.
    """

    def __init__(self) -> None:
        self.slept, self.real = 0.0, 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.slept

    def time(self) -> float:
        return NOON + self.slept

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept += seconds
        if self.real:
            time.sleep(self.real)
