"""Gives events to the command of `[fleet] on_event`, by a process of its own that runs it once for each.

Whatever that command does, hang, fail or flood, it does to that process: what is given to it waits in a queue with a
limit, and what finds no room there is counted and told of afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from portfleet.core.events import Event
from portfleet.store.log import Log
from portfleet.watch import event_runner

#: Events that wait for the command, beside what the pipe to its process holds (64 KiB, some hundred).
_WAITING = 1000
#: Seconds until its process is started again after it has ended.
_AGAIN = 5.0
#: What tells of the command itself: given to it, one that fails would fail for ever.
_OF_ITSELF = frozenset({"event-command-failed", "event-command-works"})


class EventCommand:
    """The queue before the command, and the process that runs it. Used by one thread; it waits for nothing."""

    def __init__(self, command: Callable[[], tuple[str, ...] | None], log: Log, *, most: int = _WAITING) -> None:
        """``command`` returns the words of the command, () if there is none, None as long as that is not known.

        ``most``: how many events wait for it.
        """
        self._command, self._log, self._most = command, log, most
        self._waiting: deque[bytes] = deque()
        #: What the pipe had no room for of a line; how many lines the process has not told about yet.
        self._rest, self._given = b"", 0
        self._missed = 0
        self._runner: subprocess.Popen[bytes] | None = None
        self._words: tuple[str, ...] = ()
        self._start_at = 0.0
        self._said = b""
        self._failing = False

    def take(self, event: Event) -> None:
        """Have the command get ``event`` when its turn comes."""
        if self._command() == () or event.kind in _OF_ITSELF:
            return
        if len(self._waiting) >= self._most:
            self._missed += 1
        else:
            self._waiting.append(json.dumps(event.to_json()).encode() + b"\n")

    def go_on(self) -> None:
        """Pass on what there is room for, and take in how the command fares."""
        words = self._command()
        if words is None:
            return
        if words != self._words:
            self.close(0)
            self._words, self._start_at, self._missed = words, 0.0, 0
        if not words:
            self._waiting.clear()
            return
        self._hear()
        if self._waiting and self._runner is None and time.monotonic() >= self._start_at:
            self._start()
        self._pass_on()
        if self._missed and not self._waiting and not self._failing:
            missed, self._missed = self._missed, 0
            self._log("events-missed", count=missed)

    def close(self, seconds: float) -> None:
        """Let the command get what was passed on, for ``seconds`` at most, and end its process."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        self._missed += self._given + bool(self._rest)
        self._rest, self._given, self._said = b"", 0, b""
        for pipe in (runner.stdin, runner.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr] # both are pipes
        try:
            runner.wait(seconds)
        except subprocess.TimeoutExpired:
            runner.terminate()  # and it its command
            runner.wait()

    def _start(self) -> None:
        argv = [sys.executable, "-P", "-m", event_runner.__name__, *self._words]
        self._start_at = time.monotonic() + _AGAIN
        try:
            # In a session of its own: what ends the watcher's group lets it run the last events.
            self._runner = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
                bufsize=0, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._fails(f"{argv[0]}: {error.strerror}")
            return
        for pipe in (self._runner.stdin, self._runner.stdout):
            os.set_blocking(pipe.fileno(), False)  # type: ignore[union-attr] # both are pipes

    def _pass_on(self) -> None:
        with suppress(OSError):  # no room (BlockingIOError), or it has ended, which is heard next time
            while self._runner is not None and (self._rest or self._waiting):
                self._rest = self._rest or self._waiting.popleft()
                done = os.write(self._runner.stdin.fileno(), self._rest)  # type: ignore[union-attr] # a pipe
                self._rest = self._rest[done:]
                self._given += not self._rest

    def _hear(self) -> None:
        """Take in what the runner says: a line for each command, with why it failed, or nothing."""
        if self._runner is None:
            return
        with suppress(BlockingIOError):
            while data := os.read(self._runner.stdout.fileno(), 65536):  # type: ignore[union-attr] # a pipe
                *lines, self._said = (self._said + data).split(b"\n")
                for line in lines:
                    self._told(line.decode(errors="replace"))
            self.close(0)
            self._fails("the process that runs it has ended")

    def _told(self, trouble: str) -> None:
        self._given -= 1
        if trouble:
            self._fails(trouble)
        elif self._failing:
            self._failing = False
            self._log("event-command-works", command=self._words[0])

    def _fails(self, trouble: str) -> None:
        """Say that the command fails; of one that goes on failing nothing more, for it may do so for each event."""
        if not self._failing:
            self._failing = True
            self._log("event-command-failed", command=self._words[0], reason=trouble)
