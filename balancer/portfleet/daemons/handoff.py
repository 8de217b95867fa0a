"""Has one daemon pass its established connections to another, through their control sockets (docs/handoff.md)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from portfleet.core.desired import DesiredInstance
from portfleet.daemons.answers import LONGEST, ControlError, HandoffRefused, read_progress
from portfleet.daemons.exchange import Control
from portfleet.daemons.instances import control_of
from portfleet.daemons.talk import dial
from portfleet.store import faults

#: Seconds that a daemon waits for requests in flight; what is not finished then is tried again.
_IN_FLIGHT = 5
#: Seconds without a word after which one of the two hangs: a batch takes milliseconds.
_SILENT = _IN_FLIGHT + 5
#: Seconds a connection that all of it may take beside that; measured were 0.00005.
_EACH = 0.001
#: Connections that a daemon may be asked for (docs/control.md).
_MOST = 1 << 24
#: The code of a daemon's answer while it hands off already (docs/control.md); the client of that one may be gone.
_BUSY = "busy"


class HandoffFailed(Exception):
    """The hand-off ended early; ``moved`` connections are with the receiver, all others still with the sender.

    ``busy``: another hand-off of the sender is under way.
    """

    def __init__(self, reason: str, moved: int, *, busy: bool = False) -> None:
        super().__init__(reason)
        self.moved, self.busy = moved, busy


async def hand_off(sender: DesiredInstance, receiver: DesiredInstance, *, pids: Mapping[str, int], count: int) -> int:
    """Move ``count`` connections to another instance; return how many moved, by the sender's word.

    ``pids`` are the processes by instance.

    Raises HandoffFailed with the daemon's own words, and for a sender that falls silent, or goes on for longer than so
    many connections can take.
    """
    count = min(count, _MOST)
    pair, moved, seconds = f"{sender.name} to {receiver.name}", 0, _SILENT + _EACH * count
    place = control_of(sender, pids)
    if place is None:
        raise HandoffFailed(f"{pair}: {sender.name} does not run", 0)
    try:
        async with asyncio.timeout(seconds):
            async with aclosing(_progress(place, receiver, count)) as lines:
                async for said, done in lines:
                    moved = min(said, count)
                    if done:
                        return moved
                    faults.point("batch handed off")
    except HandoffRefused as refused:
        raise HandoffFailed(f"{pair}: {refused}", min(refused.moved, count), busy=refused.code == _BUSY) from None
    except (OSError, ValueError, ControlError) as error:  # a time-out is an OSError, a line without end a ValueError
        words = f"not done within {seconds:.0f} s" if isinstance(error, TimeoutError) else error
        raise HandoffFailed(f"{pair}: {words}", moved) from None
    raise HandoffFailed(f"{pair}: {sender.name} closed its control socket in the middle", moved)


async def _progress(place: Control, receiver: DesiredInstance, count: int) -> AsyncGenerator[tuple[int, bool], None]:
    """Give the command and yield what the sender says of it; raises OSError, ValueError and ControlError."""
    reader, writer = await asyncio.open_unix_connection(sock=dial(place), limit=LONGEST)
    try:
        request = {"command": "handoff", "to": str(receiver.control), "count": count, "listener": False, "names": False}
        writer.write(json.dumps(request | {"deadline": _IN_FLIGHT}).encode() + b"\n")
        await writer.drain()
        while line := await _line(reader):
            yield read_progress(line)
    except TimeoutError:
        raise ControlError(f"no word for {_SILENT} s, one of them hangs") from None
    finally:
        writer.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    # Not by wait_for: up to Python 3.11 it swallows a cancellation that comes in the same turn as a line, here that of
    # the deadline of the whole (python/cpython#86296).
    async with asyncio.timeout(_SILENT):
        return await reader.readline()
