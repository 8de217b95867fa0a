"""Has one daemon pass its established connections to another, through their control sockets (docs/handoff.md)."""

from __future__ import annotations

import asyncio
import json

from portfleet.core.desired import DesiredInstance
from portfleet.store import faults

#: Seconds that a daemon waits for requests in flight; what is not finished then is tried again.
_IN_FLIGHT = 5
#: Seconds without a word after which one of the two hangs: a batch takes milliseconds.
_SILENT = _IN_FLIGHT + 5
#: The code of a daemon's answer while it hands off already (docs/control.md); the client of that one may be gone.
_BUSY = "busy"


class HandoffFailed(Exception):
    """The hand-off ended early; ``moved`` connections are with the receiver, all others still with the sender.

    ``busy``: another hand-off of the sender is under way.
    """

    def __init__(self, reason: str, moved: int, *, busy: bool = False) -> None:
        super().__init__(reason)
        self.moved, self.busy = moved, busy


async def hand_off(sender: DesiredInstance, receiver: DesiredInstance, *, count: int | None) -> int:
    """Move ``count`` connections (None: all) to another instance; return how many moved.

    A handed-off connection keeps its local port, so whose it is only its process can tell from then on. Raise
    HandoffFailed with the daemon's own words.
    """
    total = 0
    pair = f"{sender.name} to {receiver.name}"
    try:
        reader, writer = await asyncio.open_unix_connection(sender.control, limit=1 << 22)
    except OSError as error:
        raise HandoffFailed(f"{sender.name} does not answer: {error}", 0) from None
    try:
        request = {"command": "handoff", "to": str(receiver.control), "count": count, "listener": False}
        writer.write(json.dumps(request | {"deadline": _IN_FLIGHT}).encode() + b"\n")
        await writer.drain()
        while line := await asyncio.wait_for(reader.readline(), _SILENT):
            answer = json.loads(line)
            total = int(answer.get("moved", total))
            if not answer.get("ok"):
                raise HandoffFailed(f"{pair}: {answer.get('error')}", total, busy=answer.get("code") == _BUSY)
            if answer["event"] == "done":
                return total
            faults.point("batch handed off")
    except TimeoutError:
        raise HandoffFailed(f"{pair}: no word for {_SILENT} s, one of them hangs", total) from None
    except (OSError, ValueError, KeyError) as error:
        raise HandoffFailed(f"{pair}: {error!r}", total) from None
    finally:
        writer.close()
    raise HandoffFailed(f"{pair}: {sender.name} closed its control socket in the middle", total)
