"""A server on PORT that repeats each line after NAME and, on SIGUSR1, lives on without its listener."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one client's lines."""
    while line := await reader.readline():
        writer.write(sys.argv[2].encode() + b" " + line)
    writer.close()


async def main() -> None:
    listener = socket.create_server(("", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    server = await asyncio.start_server(answer, sock=listener)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, server.close)
    await asyncio.Event().wait()


asyncio.run(main())
