"""A daemon that behaves until a file appears, then misbehaves on its control socket: `odd_daemon.py PORT FILE WAY…`.

The instance numbered N takes the N-th of the ways. Its port echoes lines all the time. Standard library only.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

READY = {"ok": True, "state": "ready", "connections": 0, "requests": 0, "errors": 0, "handoff": []}
Writer = asyncio.StreamWriter


def line(**changes: object) -> bytes:
    return json.dumps(READY | changes).encode() + b"\n"


async def _trickle() -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await asyncio.sleep(0.05)


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _silent() -> AsyncIterator[bytes]:
    await asyncio.sleep(3600)
    yield b""


#: What each way answers to anything.
WAYS: dict[str, Callable[[], AsyncIterator[bytes]]] = {
    "lacking": lambda: _once(b'{"ok": true, "state": "ready"}\n'),
    "nested": lambda: _once(b"[" * 60_000 + b"\n"),
    "long": lambda: _once(b"[" * 200_000 + b"\n"),
    "digits": lambda: _once(line().replace(b'"connections": 0', b'"connections": ' + b"9" * 5000)),
    "huge": lambda: _once(line().replace(b'"connections": 0', b'"connections": ' + b"9" * 400)),
    "negative": lambda: _once(line(connections=-1)),
    "boolean": lambda: _once(line(connections=True)),
    "escapes": lambda: _once(line(state="\x1b[31mready\x1b[2J")),
    "refusing": lambda: _once(json.dumps({"ok": False, "error": "\x1b[2J" + "no " * 5000}).encode() + b"\n"),
    "binary": lambda: _once(bytes(range(255, 0, -1)) + b"\n"),
    "twice": lambda: _once(line() + line()),
    "closing": lambda: _once(b""),
    "silent": _silent,
    "trickle": _trickle,
    "endless": _endless,
}


async def main(port: int, file: Path, ways: list[str]) -> None:
    path = Path(os.environ["PORTFLEET_CONTROL"])
    way = ways[int(os.environ["PORTFLEET_INSTANCE"].rpartition("-")[2]) - 1]

    async def control(reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            while await reader.readline():
                odd = file.exists()
                async for data in WAYS[way]() if odd else _once(line()):
                    writer.write(data)
                    await writer.drain()
                if odd and way == "closing":
                    break
        except OSError:
            pass
        writer.close()

    async def echo(reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        path.unlink(missing_ok=True)
        serving = [await asyncio.start_server(echo, sock=listener), await asyncio.start_unix_server(control, str(path))]
        if way.startswith("/"):  # lead whoever asks to another process's socket
            while not file.exists():
                await asyncio.sleep(0.05)
            path.unlink()
            path.symlink_to(way)
        await asyncio.gather(*(one.serve_forever() for one in serving))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
