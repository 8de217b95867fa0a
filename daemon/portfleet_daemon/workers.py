"""Worker processes for a handler that blocks: the loop feeds them over socket pairs, one request at a time each.

Processes, because a thread beside the loop was measured to raise its median latency from 132 to 2,834 µs (the
interpreter's switch interval); executed afresh, not forked, so that they hold no client's descriptor and no epoll set.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import subprocess
import sys
from struct import Struct
from typing import Any

from portfleet_daemon.log import log

PREFIX = Struct(">I")  # length of the pickle that follows
START_TIMEOUT = 30.0  # seconds for a worker to import the handler
LONGEST_BACKOFF = 5.0  # seconds between a worker's death and the next, when they die young


class WorkerError(Exception):
    """What the handler raised in a worker, with its traceback as text, or that the worker died."""


class Workers:
    """`number` processes that run `handler` (a module:attr). `respond` is a handler that returns a future."""

    def __init__(self, handler: str, *, number: int) -> None:
        self._handler, self._number = handler, number
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._started = asyncio.Semaphore(0)

    def respond(self, request: Any) -> asyncio.Future[Any]:
        """Queue a request; the queue is as long as there are connections at most, each has one in flight."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((request, future))
        return future

    async def start(self) -> None:
        """Start all and return when they can answer; raises TimeoutError."""
        self._tasks = [asyncio.get_running_loop().create_task(self._keep_one()) for _ in range(self._number)]
        async with asyncio.timeout(START_TIMEOUT):
            for _ in self._tasks:
                await self._started.acquire()

    async def close(self) -> None:
        """End all, also in the midst of a request."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_one(self) -> None:
        """Run a worker, and another one when it dies."""
        loop = asyncio.get_running_loop()
        backoff = 0.0
        while True:
            born = loop.time()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            with ours:
                with theirs:
                    theirs.setblocking(True)
                    command = [sys.executable, "-m", "portfleet_daemon.worker", str(theirs.fileno()), self._handler]
                    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
                try:
                    await self._feed(ours)
                except OSError as error:
                    log("worker-died", pid=process.pid, error=error)
                finally:
                    process.kill()
                    process.wait()  # killed, so this does not block
            backoff = min(2 * backoff + 0.1, LONGEST_BACKOFF) if loop.time() - born < 10 else 0.0
            await asyncio.sleep(backoff)

    async def _feed(self, sock: socket.socket) -> None:
        await _read(sock)  # it says when the handler is imported
        self._started.release()
        while True:
            request, future = await self._queue.get()
            if future.done():
                continue  # the client is gone
            try:
                await asyncio.get_running_loop().sock_sendall(sock, pack(request))
                fine, answer = await _read(sock)
            except OSError:
                if not future.done():
                    future.set_exception(WorkerError("the worker process died"))
                raise
            if future.done():
                continue
            if fine:
                future.set_result(answer)
            else:
                future.set_exception(WorkerError(answer))


def pack(value: Any) -> bytes:
    """A value as it goes over the pair."""
    data = pickle.dumps(value)
    return PREFIX.pack(len(data)) + data


async def _read(sock: socket.socket) -> Any:
    (length,) = PREFIX.unpack(await _read_exactly(sock, PREFIX.size))
    return pickle.loads(await _read_exactly(sock, length))  # noqa: S301  from our own child, over a private pair


async def _read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = await asyncio.get_running_loop().sock_recv(sock, min(size - len(data), 65536))
        if not part:
            raise ConnectionResetError("end of file")
        data += part
    return bytes(data)
