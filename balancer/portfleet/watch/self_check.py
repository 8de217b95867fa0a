"""The watcher's own watchdog: stuck, it ends itself, and supervisord starts another one.

faulthandler's thread needs neither the loop nor the interpreter's lock, so it also ends a process that is stuck in a
system call or in C. It writes the stack of every thread to run/watch.stacks, and the next watcher says what it finds
there.
"""

from __future__ import annotations

import faulthandler
import math
import os
import time
import traceback
from pathlib import Path
from typing import NoReturn

from portfleet.store.log import Log

#: Seconds in which the loop must have turned and the probes gone on; between two signs of life; and for setting or
#: reading all rules of a very large fleet, which the loop waits for.
_STUCK, _EVERY, _LONG = 5.0, 1.0, 60.0


class SelfCheck:
    """Ends this process if `alive` is not called for five seconds; ``path`` is the file of stacks. Raise OSError."""

    def __init__(self, path: Path, log: Log) -> None:
        self._log = log
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "r+")
        self._next, self._deadline = 0.0, math.inf

    def tell_before(self) -> None:
        """Log how the watcher before this one ended, if it was by its self-check or unexpectedly, and count it."""
        if stacks := self._file.read():
            reason = "the watcher before this one was stuck or met an unexpected error, and was started again"
            self._log("watcher-ended", reason=reason, stacks=stacks)
            self._log.count("the watcher", "it was stuck, or ended unexpectedly, and was started again")
        self._file.truncate(0)

    def alive(self) -> None:
        """Note that the loop turns and the probes go on.

        A process that was stopped by a signal goes on with any of its threads first: if this is too late, it ends here.
        """
        now = time.monotonic()
        if now > self._deadline:
            self._stuck(now)
        if now >= self._next:
            self._next = now + _EVERY
            self._arm(_STUCK)

    def busy(self) -> None:
        """Allow for a minute in which the loop does not turn."""
        self._next = 0.0
        self._arm(_LONG)

    def close(self) -> None:
        """Check no longer."""
        faulthandler.cancel_dump_traceback_later()
        self._file.close()

    def end(self, task: str, error: BaseException | None) -> NoReturn:
        """End the process: a ``task`` that runs for ever has ended. Threads that hang do not keep it."""
        stack = "".join(traceback.format_exception(error)) if error else "it returned"
        self._log("task-ended", task=task, error=repr(error), traceback=stack)
        self._file.write(f"{task}: {stack}")
        self._file.flush()
        os._exit(1)

    def _stuck(self, now: float) -> NoReturn:
        self._file.write(f"the loop stood still for {now - self._deadline + _STUCK:.1f} s\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file)
        os._exit(1)

    def _arm(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._file)
