"""What the watcher has in run/: its lock, its socket and its files, made anew when they were removed.

Others clean directories, also this one. A process goes on to hold a lock file without a name, and to listen on a socket
without one, but no command finds either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from portfleet.apply.files import Files
from portfleet.core.desired import Desired
from portfleet.core.paths import Paths
from portfleet.store import locks
from portfleet.store.directories import make_directories


class RunFiles:
    """Keeps lock and socket until `close`. ``serve`` opens the socket."""

    def __init__(self, paths: Paths, serve: Callable[[], Awaitable[asyncio.Server]]) -> None:
        self._paths, self._serve = paths, serve
        self._locks = ExitStack()
        #: What was there once: the others are written when there is something to write.
        self._seen = {paths.watch_socket.name}
        self._server: asyncio.Server | None = None

    async def look(self, desired: Desired | None) -> list[str]:
        """Make what is missing, and the directories of ``desired`` instances' control sockets; return its names.

        Raise Locked if another watcher has taken the lock meanwhile, and OSError.
        """
        paths = self._paths
        kept = (paths.watch_lock, paths.watch_socket, paths.out, paths.warnings, paths.processes)
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

    def close(self) -> None:
        """Close the socket and leave the lock to another watcher."""
        if self._server is not None:
            self._server.close()
        self._locks.close()
