"""Has one daemon pass its established connections to another, through their control sockets (docs/handoff.md)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from portfleet.desired import InstanceWant

#: Four-tuples [local address, local port, peer address, peer port].
Tuples = Sequence[Sequence[Any]]


class HandoffFailed(Exception):
    """The hand-off ended early; ``moved`` connections are with the receiver, all others still with the sender."""

    def __init__(self, reason: str, moved: int) -> None:
        super().__init__(reason)
        self.moved = moved


async def hand_off(
    sender: InstanceWant, receiver: InstanceWant, *, count: int | None, moved: Callable[[Tuples], None]
) -> int:
    """Move ``count`` connections (None: all); ``moved`` is told each acknowledged batch. Gives how many moved.

    Raises HandoffFailed with the daemon's own words.
    """
    total = 0
    try:
        reader, writer = await asyncio.open_unix_connection(sender.control, limit=1 << 22)
    except OSError as error:
        raise HandoffFailed(f"{sender.name} does not answer: {error}", 0) from None
    try:
        request = {"command": "handoff", "to": str(receiver.control), "count": count, "listener": False}
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        while line := await reader.readline():
            answer = json.loads(line)
            total = int(answer.get("moved", total))
            if not answer.get("ok"):
                raise HandoffFailed(f"{sender.name} to {receiver.name}: {answer.get('error')}", total)
            if answer["event"] == "done":
                return total
            moved(answer["connections"])
    except (OSError, ValueError, KeyError) as error:
        raise HandoffFailed(f"{sender.name} to {receiver.name}: {error!r}", total) from None
    finally:
        writer.close()
    raise HandoffFailed(f"{sender.name} closed its control socket in the middle", total)
