"""Who waits for a processor: an ejection for none, everything else of the watcher like any other process.

The loop is urgent, so that the news of a death wakes it at once also beside instances that keep all processors busy.
Its time slices are as short as those of instances, which would else take the processor from it (`time_slices`).
What an operation does in the loop takes milliseconds; with that priority the daemons would wait for it, and with them
their clients: half of the pause of a cutover came of that. Threads and processes that the loop starts begin like those
of any other process (SCHED_RESET_ON_FORK, sched(7)).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

from portfleet.linux.scheduling import SHORT_SLICE, set_nice, set_slice

T = TypeVar("T")

#: Nice values: of the loop, and of all that may wait.
URGENT, ORDINARY = -20, 0


def urgent() -> bool:
    """Make the calling thread urgent, and nothing that it starts; return False if this machine refuses that.

    It is refused too for a thread of another policy than SCHED_OTHER, of which all that it starts would be urgent.
    """
    with suppress(OSError):
        set_slice(0, SHORT_SLICE, inherited=False)
    return bool(os.sched_getscheduler(0) & os.SCHED_RESET_ON_FORK) and set_nice(URGENT)


async def yielding(work: Coroutine[Any, Any, T], *, set_nice: Callable[[int], object] = set_nice) -> T:
    """Await ``work`` in a loop that is urgent, but not while it goes on with that."""
    return await _Steps(work, set_nice)


class _Steps(Generic[T]):
    def __init__(self, work: Coroutine[Any, Any, T], set_nice: Callable[[int], object]) -> None:
        self._work, self._set_nice = work, set_nice

    def __await__(self) -> Generator[Any, Any, T]:
        raised: BaseException | None = None
        while True:
            before = os.getpriority(os.PRIO_PROCESS, 0)
            self._set_nice(max(before, ORDINARY))
            try:
                awaited = self._work.throw(raised) if raised else self._work.send(None)
            except StopIteration as end:
                return cast(T, end.value)
            finally:
                self._set_nice(before)
            raised = None
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001 (a cancellation, say: it is the work's)
                raised = error
