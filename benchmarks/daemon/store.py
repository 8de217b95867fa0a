"""A handler for RESP as authors write them: a table of commands over a dict, for portfleet-daemon and uvloop."""

from collections.abc import Callable
from typing import Any

STORE: dict[bytes, bytes] = {}


def get(words: list[bytes]) -> bytes | None:
    """Return the value of a key."""
    return STORE.get(words[1])


def put(words: list[bytes]) -> str:
    """Set the value of a key."""
    STORE[words[1]] = words[2]
    return "OK"


COMMANDS: dict[bytes, Callable[[list[bytes]], Any]] = {b"GET": get, b"SET": put}


def respond(words: list[bytes]) -> Any:
    """Answer one command."""
    return COMMANDS[words[0]](words)
