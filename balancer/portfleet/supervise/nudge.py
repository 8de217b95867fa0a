"""Makes supervisord look around at once: without it a dead child is reaped at its next poll, 1–2 s later.

One request makes its loop turn once and reap; a turn later it starts the program again, so two are sent. Nothing is
waited for: the watcher must not hang on a supervisord that does.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

_BODY = b"<?xml version='1.0'?><methodCall><methodName>supervisor.getState</methodName></methodCall>"
_REQUEST = (
    b"POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(_BODY)
) + _BODY


def nudge(path: Path, loop: asyncio.AbstractEventLoop) -> None:
    """Send two requests, some milliseconds apart; errors are left to the next poll to find."""
    _send(path, loop)
    for delay in (0.004, 0.012):
        loop.call_later(delay, _send, path, loop)


def _send(path: Path, loop: asyncio.AbstractEventLoop) -> None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(str(path))
        connection.send(_REQUEST)
    except OSError:
        connection.close()
        return
    # Closed only later: medusa drops a request whose connection is gone before it was read.
    loop.call_later(1.0, connection.close)
