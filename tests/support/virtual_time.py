"""An event loop whose time is a fake clock's: it never waits, the clock goes on to the next thing that is due."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from support.fake_clock import FakeClock

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Looks for what is there already, and lets the clock go on where nothing is."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "nothing is due, so nothing would ever happen"
            self._clock.sleep(max(0.0, timeout))
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """Deterministic as long as nothing but timers and tasks is waited for."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(_Selector(clock))
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.monotonic()


def run(clock: FakeClock, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end in the time of ``clock``."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        return runner.run(work)
