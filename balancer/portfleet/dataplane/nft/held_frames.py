"""Packets of held connections, which wait here as frames until their connection goes on, here or on another box.

Without the interface in which they wait they are dropped, and TCP sends them again after 0.2 s at the earliest.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import suppress

from portfleet.dataplane.nft.moved_flows import key
from portfleet.dataplane.nft.moved_rules import TAP
from portfleet.linux.tap import Tap

_IPV4, _IPV6, _TCP = b"\x08\x00", b"\x86\xdd", 6


class HeldFrames:
    """What waits; ``busy`` if another process has the interface."""

    def __init__(self) -> None:
        self._tap: Tap | None = None
        self.busy = False
        self._held: set[bytes] = set()
        self._waiting: list[bytes] = []
        try:
            self._tap = Tap(TAP)
        except OSError as error:
            self.busy = error.errno == errno.EBUSY

    def __bool__(self) -> bool:
        return self._tap is not None

    def hold(self, keys: Iterable[bytes]) -> None:
        """Have frames of connections with these keys wait."""
        self._held.update(keys)

    def release(self, keys: Iterable[bytes]) -> None:
        """Let what waits of connections with these keys come in once more, in its order."""
        self._held.difference_update(keys)
        if self._tap is None:
            return
        frames, self._waiting = [*self._waiting, *self._tap.read()], []
        for frame in frames:
            found = key_of(frame)
            if found in self._held:
                self._waiting.append(frame)
            elif found is not None:
                with suppress(OSError):  # TCP sends it again
                    self._tap.write(frame)


def key_of(frame: bytes) -> bytes | None:
    """Return the key of the connection that a frame belongs to; None if it is not one of TCP."""
    kind = frame[12:14]
    if kind == _IPV4 and len(frame) >= 34 and frame[23] == _TCP:
        ports = 14 + 4 * (frame[14] & 15)
        source, target = frame[26:30], frame[30:34]
    elif kind == _IPV6 and frame[20:21] == bytes([_TCP]):
        ports = 54
        source, target = frame[22:38], frame[38:54]
    else:
        return None
    if len(frame) < ports + 4:
        return None
    numbers = (int.from_bytes(frame[at : at + 2], "big") for at in (ports, ports + 2))
    return key(source, next(numbers), target, next(numbers))
