"""The sender's opening line and the receiver's answer (docs/handoff.md §1)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import dataclass
from typing import Any

from portfleet_daemon.control import LONGEST_LINE, check_peer
from portfleet_daemon.errors import Refused
from portfleet_daemon.handoff.wire import VERSIONS

ANSWER_WITHIN = 5.0  # seconds


@dataclass(frozen=True)
class Agreed:
    """What the receiver agreed to: the number of connections it takes, and the `version`; `pid` is its own."""

    room: int
    version: int
    pid: int


async def greet(sock: socket.socket, to: str, hello: dict[str, Any]) -> Agreed:
    """Connect `sock` to the control socket `to` and say `hello`; raise Refused unless both ends fit."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            pid, line = await _ask(sock, to, json.dumps(hello).encode() + b"\n")
    except TimeoutError as error:
        raise Refused(f"hand-off to {to}: no answer within {ANSWER_WITHIN:g} s", hint="see its log") from error
    except OSError as error:
        raise Refused(f"hand-off to {to}: {error}", hint="is the receiver running?") from error
    try:
        room, version = _answer(line, to)
        return Agreed(room=room, version=version, pid=pid)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"hand-off to {to}: its answer makes no sense", hint="docs/handoff.md §1") from error


async def _ask(sock: socket.socket, to: str, hello: bytes) -> tuple[int, bytes]:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, to)
    if (pid := check_peer(sock)) == os.getpid():
        raise Refused("handoff to itself", hint="give the control socket of another daemon")
    await loop.sock_sendall(sock, hello)
    line = b""
    while not line.endswith(b"\n"):
        data = await loop.sock_recv(sock, 4096)
        if not data:
            raise Refused(f"hand-off to {to}: it closed the connection", hint="see its log")
        line += data
        if len(line) > LONGEST_LINE:
            raise Refused(f"hand-off to {to}: its answer has over {LONGEST_LINE} bytes", hint="docs/handoff.md §1")
    return pid, line


def _answer(line: bytes, to: str) -> tuple[int, int]:
    """Return how many connections the receiver takes, and the version it chose."""
    answer = json.loads(line)
    if answer["ok"] is not True:
        hint = str(answer.get("hint", ""))[:200]
        raise Refused(f"hand-off to {to}: {str(answer['error'])[:200]}", hint=hint)
    if answer["version"] not in VERSIONS:
        raise Refused(f"hand-off to {to}: it chose version {str(answer['version'])[:20]}", hint="drain instead")
    room = answer["room"]
    if type(room) is not int or room < 0:
        raise ValueError("room")
    return room, answer["version"]
