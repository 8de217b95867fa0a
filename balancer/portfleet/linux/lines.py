"""JSON lines between two processes, over a pair of descriptors such as ssh's standard streams; for those that block.

What comes is another box's word: an object, within a time and a length; what it holds is for the caller to check.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Mapping
from typing import Any

#: Bytes of one line: a batch of connections with all that is unread and unsent.
_LONGEST = 1 << 28
#: Seconds until the other process must have taken a line: ssh and the pipes beside it hold a few MB.
_TAKEN = 15.0


class StreamEnded(Exception):
    """The other process ended, fell silent, or speaks something else; the text says which."""


class Lines:
    """One end of the stream."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes, self._got = reads, writes, bytearray()
        os.set_blocking(writes, False)

    def fileno(self) -> int:
        """Return what is readable when there is more to `hear`, beside what `waits`."""
        return self._reads

    @property
    def waits(self) -> bool:
        """Whether a line has come that was not heard yet."""
        return b"\n" in self._got

    def say(self, line: Mapping[str, Any]) -> None:
        """Send a line, which has to be taken within 15 s. Raises StreamEnded."""
        data = memoryview(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        deadline = time.monotonic() + _TAKEN
        try:
            while data:
                if not select.select([], [self._writes], [], max(0.0, deadline - time.monotonic()))[1]:
                    raise StreamEnded(f"the other box takes nothing for {_TAKEN:g} s")
                data = data[os.write(self._writes, data) :]
        except OSError as error:
            raise StreamEnded(f"the other box is gone: {error.strerror}") from None

    def hear(self, *, seconds: float | None) -> dict[str, Any]:
        """Return the next line, which has to come within ``seconds`` (None: for ever). Raises StreamEnded."""
        deadline = None if seconds is None else time.monotonic() + seconds
        searched = 0
        while (end := self._got.find(b"\n", searched)) < 0:
            searched = len(self._got)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._reads], [], [], left)[0]:
                raise StreamEnded(f"no word from the other box for {seconds:g} s")
            data = os.read(self._reads, 1 << 16)
            if not data:
                raise StreamEnded("the other box has ended the connection")
            self._got += data
            if len(self._got) > _LONGEST:
                raise StreamEnded("the other box sends a line without end")
        line = bytes(self._got[:end])
        del self._got[: end + 1]
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise StreamEnded(f"the other box says what is no object: {line[:80]!r}")
        return found
