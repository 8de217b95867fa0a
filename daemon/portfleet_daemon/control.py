"""The control socket: a unix stream socket, mode 0600, one JSON object per line in each direction."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from portfleet_daemon.commands import Brief, Command, Receive, Status, parse
from portfleet_daemon.errors import ListenError, OperatorError, Refused
from portfleet_daemon.log import log

LONGEST_LINE = 65536  # bytes
LOOK = 1.0  # seconds between two looks whether the socket's file is there
CLIENTS = 64  # at a time; more are refused

Run = Callable[[Command], AsyncIterator[dict[str, Any]]]
Take = Callable[[Receive, socket.socket], Coroutine[Any, Any, None]]


class ControlSocket:
    """Serves commands: `run` yields the answers to one, `take` has a socket to itself after `receive`."""

    def __init__(self, path: str, *, run: Run, take: Take) -> None:
        self.path = path
        self._run, self._take = run, take
        self._tasks: set[asyncio.Task[None]] = set()
        self._inode: int | None = None
        self._socks: list[socket.socket] = []

    def open(self) -> None:
        """Bind and serve, replacing a socket that no process listens on; raise ListenError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        mask = os.umask(0o177)  # the socket is 0600 from its first moment
        try:
            self._remove_stale()
            sock.bind(self.path)
            sock.listen(CLIENTS)
            self._inode = Path(self.path).stat().st_ino
        except OSError as error:
            sock.close()
            hint = "see --control and PORTFLEET_CONTROL"
            raise ListenError(f"cannot make the control socket {self.path}: {error}", hint=hint) from error
        finally:
            os.umask(mask)
        self._socks.append(sock)
        self._listen(sock)
        self._keep(self._stay())

    def _remove_stale(self) -> None:
        path = Path(self.path)
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise ListenError(f"control socket {path}: there is something else", hint="remove it, or name another")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            try:
                probe.connect(self.path)
            except ConnectionRefusedError:
                path.unlink()
                return
        raise ListenError(f"control socket {path}: a daemon listens on it", hint="stop that one, or name another")

    async def close(self) -> None:
        """Stop serving and remove the path, unless it is another's by now."""
        with contextlib.suppress(OSError):
            if Path(self.path).stat().st_ino == self._inode:
                Path(self.path).unlink()
        socks, self._socks = self._socks, []
        for sock in socks:
            asyncio.get_running_loop().remove_reader(sock)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in socks:
            sock.close()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _listen(self, sock: socket.socket) -> None:
        """Accept from now on, unless it is closed by now.

        Not by loop.sock_accept: a connection that comes as that is cancelled is an InvalidStateError in the log.
        """
        if sock in self._socks:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        try:
            client, _ = sock.accept()
        except BlockingIOError:
            return
        except OSError as error:  # out of descriptors, mostly
            log("control-paused", error=error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(sock)
            loop.call_later(0.1, self._listen, sock)
            return
        client.setblocking(False)
        self._keep(self._serve(client, crowded=len(self._tasks) > CLIENTS))

    async def _stay(self) -> None:
        """Make the socket anew when its file was removed, as cleaners of directories do: no other process finds it."""
        while Path(self.path).exists():
            await asyncio.sleep(LOOK)
        while True:
            try:
                self.open()
            except ListenError:  # its directory is away too
                await asyncio.sleep(LOOK)
            else:
                log("control-made-anew", path=self.path)
                return

    async def _serve(self, client: socket.socket, *, crowded: bool) -> None:
        with client, contextlib.suppress(ConnectionError):
            if crowded:
                await send(client, failure(Refused(f"over {CLIENTS} control connections", hint="try again")))
                return
            async for line in lines(client):
                try:
                    command = parse(line)
                    if isinstance(command, Receive):
                        check_peer(client)
                        await self._take(command, client)
                        return
                    while True:
                        async for answer in self._run(command):
                            await send(client, answer)
                        if not isinstance(command, Brief | Status) or command.every is None:
                            break
                        await asyncio.sleep(command.every)
                except OperatorError as error:  # Refused, or a port that `resume` finds taken
                    await send(client, failure(error))


async def lines(sock: socket.socket) -> AsyncIterator[bytes]:
    """Yield the lines that arrive; end at end of file, or, with an error to the peer, at a line over the limit."""
    loop = asyncio.get_running_loop()
    buffer = b""
    while True:
        line, newline, rest = buffer.partition(b"\n")
        if newline:
            buffer = rest
            yield line
        elif len(buffer) > LONGEST_LINE:
            await send(sock, failure(Refused(f"line over {LONGEST_LINE} bytes", hint="one object per line")))
            return
        else:
            data = await loop.sock_recv(sock, 16384)
            if not data:
                return
            buffer += data


async def send(sock: socket.socket, answer: dict[str, Any]) -> None:
    """Write one answer."""
    await asyncio.get_running_loop().sock_sendall(sock, json.dumps(answer).encode() + b"\n")


def failure(error: OperatorError) -> dict[str, Any]:
    """Return the answer to a command that cannot be done."""
    return {"ok": False, "code": error.code, "error": str(error), "hint": error.hint}


def check_peer(sock: socket.socket) -> int:
    """Return the pid of the other end; raise Refused unless it is root's or our own user's (SO_PEERCRED, unix(7))."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    if uid not in (0, os.getuid()):
        raise Refused(f"the other process belongs to user {uid}", hint="both must run as the same user, or it as root")
    return int(pid)
