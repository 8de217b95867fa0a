"""Damaged answers of control sockets from a seed: proper ones with values made wrong, bytes changed, or cut."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

from portfleet.daemons.answers import ControlError, read_done, read_progress, read_status
from support.fuzz import mutated
from support.fuzz_state import damaged, text_of

#: Each kind of answer and what reads it.
ANSWERS: tuple[tuple[dict[str, Any], Callable[[bytes], object]], ...] = (
    (
        {"ok": True, "state": "ready", "connections": 17310, "accepted": 10**7, "requests": 10**9, "errors": 3,
         "latency": {"bounds_us": [8, 11.3, 16], "counts": [1, 2, 3, 4]}, "max_connections": 19936, "keepalive_s": 420,
         "handoff": [1]},
        read_status,
    ),
    ({"ok": True, "event": "progress", "moved": 3, "remaining": 7, "connections": [["x", 1, "y", 2]]}, read_progress),
    ({"ok": False, "error": "no room", "code": "busy", "moved": 3}, read_progress),
    ({"ok": True}, read_done),
)  # fmt: skip


def try_answer(chance: random.Random) -> bool:
    """Read one damaged answer; return whether it was taken. AssertionError unless it is, or is refused in words."""
    proper, read = chance.choice(ANSWERS)
    line = text_of(damaged(copy.deepcopy(proper), chance), chance).encode()
    if not chance.randrange(3):
        line = mutated(line, chance)
    try:
        read(line)
    except ControlError as error:
        words = str(error)
        assert words and words.isprintable() and len(words) < 600, (line[:200], words)
        return False
    return True
