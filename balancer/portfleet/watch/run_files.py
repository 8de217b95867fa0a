"""What the watcher has in run/: its lock, its sockets and its files, made anew when they were removed.

Others clean directories, also this one. A process goes on to hold a lock file without a name, and to listen on a socket
without one, but no command finds either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from portfleet.apply.files import Files
from portfleet.core.desired import Desired
from portfleet.core.paths import Paths
from portfleet.linux.machine import user_id
from portfleet.store import locks
from portfleet.store.directories import make_directories


class RunFiles:
    """Keeps lock and sockets until `close`.

    ``serve`` opens the command line's socket, ``show`` that of the metrics' process, which is to belong to a user.
    """

    def __init__(
        self, paths: Paths, serve: Callable[[], Awaitable[asyncio.Server]],
        show: Callable[[int], Awaitable[asyncio.Server]],
    ) -> None:  # fmt: skip
        self._paths, self._serve, self._show = paths, serve, show
        self._locks = ExitStack()
        #: What was there once: the others are written when there is something to write.
        self._seen = {paths.watch_socket.name}
        self._server: asyncio.Server | None = None
        self._shown: asyncio.Server | None = None

    async def look(self, desired: Desired | None) -> list[str]:
        """Make what is missing, and the directories of ``desired`` instances' control sockets; return its names.

        Raise Locked if another watcher has taken the lock meanwhile, and OSError.
        """
        paths = self._paths
        kept = (paths.watch_lock, paths.watch_socket, paths.out, paths.retries, paths.warnings, paths.processes)
        there = {path.name for path in kept if path.exists()}
        missing = [path.name for path in kept if path.name in self._seen - there]
        self._seen |= there | {paths.watch_lock.name, paths.watch_socket.name}
        if not missing:
            return []
        make_directories(paths)
        if paths.watch_lock.name in missing:
            self._locks.enter_context(locks.watcher(paths.watch_lock))
        if desired is not None:
            Files(desired, paths).make_control_directories()
        if paths.watch_socket.name in missing:
            if self._server is not None:
                self._server.close()
            self._server = await self._serve()
        return missing

    async def show(self, desired: Desired | None) -> None:
        """Have the socket of the metrics' process there, and its user's, as long as there is to be one."""
        path, program = self._paths.seen_socket, desired.metrics if desired is not None else None
        owner = user_id(program.user) if program is not None else None
        if self._shown is not None and (owner is None or _owner(path) != owner):
            self._shown.close()
            path.unlink(missing_ok=True)
            self._shown = None
        if self._shown is None and owner is not None:
            self._shown = await self._show(owner)

    def close(self) -> None:
        """Close the sockets and leave the lock to another watcher."""
        for server in (self._server, self._shown):
            if server is not None:
                server.close()
        self._locks.close()


def _owner(path: Path) -> int | None:
    """Return the user whose ``path`` is; None if there is none."""
    try:
        return path.stat(follow_symlinks=False).st_uid
    except FileNotFoundError:
        return None
