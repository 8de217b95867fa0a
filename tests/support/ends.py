"""Clients that hold quiet connections and note when each ends; one JSON job on stdin, one JSON report on stdout.

    {"to": [address, port], "sources": [...], "message": "x\\n"}
        one connection from each source, on which one request is answered; prints "up" when all were;
        → when stdin ends, and a second later where some are left: the times (monotonic, seconds) at which connections
          ended, in that order

Standard library only, so that any python3 runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Any


async def main() -> None:
    """Do the job."""
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    ended: list[float] = []

    async def connect(source: str) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(*job["to"], local_addr=(source, 0))
        writer.write(job["message"].encode())
        await reader.readline()
        held.append(writer)
        return reader

    async def watch(reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):  # reset: how the kernel evicts
            await reader.read(1)
        ended.append(time.monotonic())

    held: list[asyncio.StreamWriter] = []
    readers = [await connect(source) for source in job["sources"]]
    tasks = [asyncio.create_task(watch(reader)) for reader in readers]
    print("up", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.wait(tasks, timeout=1)
    print(json.dumps(ended), flush=True)
    for task in tasks:
        task.cancel()


asyncio.run(main())
