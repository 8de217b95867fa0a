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
from collections import deque
from dataclasses import dataclass
from struct import Struct
from typing import Any

from portfleet_daemon.failures import WorkerError, place_of, shown
from portfleet_daemon.handler import Reply
from portfleet_daemon.log import log

PREFIX = Struct(">I")  # length of the pickle that follows
START_TIMEOUT = 30.0  # seconds for a worker to import the handler
LONGEST_BACKOFF = 5.0  # seconds between a worker's death and the next, when they die young


@dataclass
class Job:
    """A request, and the future of its answer."""

    request: Any
    future: Reply
    tried: bool = False  #: a worker died before it had read this


class Workers:
    """`number` processes that run `handler` (a module:attr). `respond` is a handler that returns a future."""

    def __init__(self, handler: str, *, number: int) -> None:
        self._handler, self._number = handler, number
        self._queue: deque[Job] = deque()  # as long as there are connections at most, each has one in flight
        self._idle: deque[asyncio.Future[None]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._started = asyncio.Semaphore(0)

    def respond(self, request: Any) -> Reply:
        """Queue a request; return the future of its answer."""
        job = Job(request, Reply(loop=asyncio.get_running_loop()))
        self._queue.append(job)
        self._wake_one()
        return job.future

    def _wake_one(self) -> None:
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def start(self) -> None:
        """Start all and return when they can answer; raise TimeoutError."""
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
        """Run a worker, and another one when it dies or cannot be started."""
        loop = asyncio.get_running_loop()
        backoff = 0.0
        while True:
            born = loop.time()
            try:
                await self._run_one()
            except Exception as error:  # noqa: BLE001  out of descriptors or memory, say; the next attempt may succeed
                log("worker-failed", error=error)
            backoff = min(2 * backoff + 0.1, LONGEST_BACKOFF) if loop.time() - born < 10 else 0.0
            await asyncio.sleep(backoff)

    async def _run_one(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with ours:
            with theirs:
                theirs.setblocking(True)
                command = [sys.executable, "-m", "portfleet_daemon.worker", str(theirs.fileno()), self._handler]
                process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
            try:
                await _read(ours)  # it says when the handler is imported
                self._started.release()
                await self._feed(ours)
            except (OSError, EOFError) as error:
                log("worker-died", pid=process.pid, error=error)
            finally:
                process.kill()
                process.wait()  # killed, so this does not block

    async def _feed(self, sock: socket.socket) -> None:
        """Have the worker answer one job after the other; raise OSError or EOFError when it dies."""
        while True:
            job = await self._next(sock)
            if job.future.done():
                continue  # the client is gone
            try:
                data = pack(job.request)
            except BaseException as error:  # noqa: BLE001  a request that cannot be pickled is that request's error
                job.future.set_exception(WorkerError(shown(error), place=place_of(error)))
                continue
            try:
                await asyncio.get_running_loop().sock_sendall(sock, data)
                answer = await _read(sock)
            except (OSError, EOFError) as error:
                self._died(job, error)
                raise
            if not job.future.done():
                _settle(job.future, answer)

    async def _next(self, sock: socket.socket) -> Job:
        loop = asyncio.get_running_loop()
        while not self._queue:
            waiter = loop.create_future()
            self._idle.append(waiter)
            loop.add_reader(sock, _ended, waiter)
            try:
                await waiter
            finally:
                loop.remove_reader(sock)
        return self._queue.popleft()

    def _died(self, job: Job, error: Exception) -> None:
        """End the request that a worker died of, or give it to another if it died before.

        The kernel says which: a pair closed with all of it read is at its end, one with bytes unread is reset.
        """
        if job.future.done():
            return
        if isinstance(error, OSError) and not job.tried:
            job.tried = True
            self._queue.appendleft(job)
            self._wake_one()
        else:
            job.future.set_exception(WorkerError("the worker process died", place=("WorkerError", "died", 0)))


def _ended(waiter: asyncio.Future[None]) -> None:
    """End the wait for a job: an idle worker has nothing to say, so this is its end."""
    if not waiter.done():
        waiter.set_exception(EOFError("while idle"))


def _settle(future: Reply, data: bytes) -> None:
    try:
        place, answer = pickle.loads(data)  # noqa: S301  from our own child, over a private pair
    except BaseException as error:  # noqa: BLE001  a reply that pickles and does not unpickle is its request's error
        place, answer = place_of(error), shown(error)
    if place is None:
        future.set_result(answer)
    else:
        future.set_exception(WorkerError(answer, place=place))


def pack(value: Any) -> bytes:
    """Return a value as it goes over the pair."""
    data = pickle.dumps(value)
    return PREFIX.pack(len(data)) + data


async def _read(sock: socket.socket) -> bytes:
    (length,) = PREFIX.unpack(await _read_exactly(sock, PREFIX.size))
    return await _read_exactly(sock, length)


async def _read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = await asyncio.get_running_loop().sock_recv(sock, min(size - len(data), 65536))
        if not part:
            raise EOFError("end of file")
        data += part
    return bytes(data)
