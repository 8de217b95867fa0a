"""The watcher's sockets: one JSON object a line. Mode 0600; malformed input gets an error.

run/watch.sock is the command line's and takes orders; run/seen.sock belongs to the user of the metrics' process: it
answers, and takes of the page's orders what `watch.desk` lets through.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
#: What a command is answered by; one that takes time is awaited.
Commands = Mapping[str, Callable[[Answer], "Answer | Awaitable[Answer]"]]


async def serve(path: Path, commands: Commands, *, owner: int | None = None) -> asyncio.Server:
    """Serve ``commands`` on ``path``; each takes the request and gives its answer (``ok`` is added).

    The socket belongs to the user ``owner``, None for this process's.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await _answer(line, commands)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            pass  # the client went away, or sent a line longer than the stream's limit
        finally:
            writer.close()

    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(talk, str(path))
    finally:
        os.umask(before)
    if owner not in (None, os.geteuid()):
        os.chown(path, owner, -1, follow_symlinks=False)
    return server


async def _answer(line: bytes, commands: Commands) -> Answer:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return {"ok": False, "error": "not JSON"}
    name = request.get("command") if isinstance(request, dict) else None
    if not isinstance(name, str) or name not in commands:
        return {"ok": False, "error": f"unknown command {name!r}", "hint": f"known: {', '.join(commands)}"}
    answer = commands[name](request)
    return {"ok": True, **(await answer if isawaitable(answer) else answer)}
