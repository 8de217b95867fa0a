"""supervisord's own death: instances go on serving, another supervisord is started, its watcher takes over.

The policy. An instance outlives supervisord; it is *adopted*: the watcher holds its pidfd, so it is ejected when it
dies, and probed as before. Its program file is set aside before the next supervisord reads its files, for that one
would start the instance a second time on a port that is taken. When an adopted instance ends, or is restarted by an
operator, it is started by the new supervisord and is a usual one again.

Where systemd runs the fleet it restarts supervisord, else the watcher does, also if no instance is left: whoever takes
the fleet down ends the watcher first. Then a watcher that supervisord had started ends, so that the one of the new
supervisord, which waits for the lock, takes over at once. One that an operator started by hand outlives a `down`, so
it brings a supervisord back only for instances that run.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor as Pool
from pathlib import Path

from portfleet.apply.context import Context
from portfleet.core.errors import PortfleetError
from portfleet.core.paths import Paths
from portfleet.core.program import WATCHER
from portfleet.linux import processes
from portfleet.store.log import Log
from portfleet.supervise import adopted
from portfleet.supervise.start import UNIT, by_systemd, start_supervisord
from portfleet.supervise.supervisor import Supervisor
from portfleet.watch.deaths import Deaths

#: supervisord's name among the processes that are watched; no instance can be called so.
SUPERVISOR = "supervisord"
#: Seconds between two tries to start supervisord, the second number is the longest wait.
_AGAIN, _LONGEST = 1.0, 30.0
#: How often a program is told to stop that supervisord may just be starting again, and seconds between.
_STOPS, _STOP = 10, 0.1


class Supervision:
    """Watches supervisord; ``hand_over`` is called when another one is there and this watcher shall end."""

    def __init__(self, *, paths: Paths, deaths: Deaths, log: Log, pool: Pool, hand_over: Callable[[], None]) -> None:
        self._paths, self._deaths, self._log, self._pool = paths, deaths, log, pool
        self._hand_over = hand_over
        self._loop = asyncio.get_running_loop()
        self._replacing: asyncio.Task[None] | None = None
        self.supervisor = Supervisor(paths.supervisor_socket)
        #: True where supervisord started this watcher, which then goes with it.
        self.below = os.environ.get("SUPERVISOR_PROCESS_NAME") == WATCHER

    @property
    def alive(self) -> bool:
        """True while the supervisord that was seen last lives."""
        return SUPERVISOR in self._deaths.pids

    async def look(self) -> None:
        """Watch supervisord's process; raises PortfleetError while none answers."""
        if self.alive or self._replacing is not None:
            return
        if self.below and _deserted(self._paths.supervisor_socket):
            self.died()  # between starting this watcher and being watched by it
            return
        pid = await self._loop.run_in_executor(self._pool, self.supervisor.pid)
        if self._deaths.watch(SUPERVISOR, pid) and self._log.over("cannot-look", about=SUPERVISOR):
            self._log("supervisord-answers", pid=pid)

    def died(self) -> None:
        """supervisord has ended: keep its successor from starting again what still runs, and see that one comes."""
        # One that was started a moment ago, or while the disk was full, is not noted.
        alive = adopted.started(self._paths) | adopted.alive(self._paths) | self._deaths.alive()
        with self._log.costs(SUPERVISOR):
            adopted.set_aside(self._paths, alive)
        if not alive and not self.below:
            self._log("supervisord-ended", reason="no instance is left: the fleet was taken down")
            return
        self._log("supervisord-died", alive=len(alive), reason="another one follows; instances that are left serve on")
        self._replacing = asyncio.ensure_future(self._replace())

    def close(self) -> None:
        """Stop waiting for another supervisord."""
        if self._replacing is not None:
            self._replacing.cancel()

    def is_lost(self, pid: int) -> bool:
        """Return whether ``pid`` runs and is not a child of the present supervisord."""
        return self.alive and processes.parent(pid) not in (None, self._deaths.pids.get(SUPERVISOR))

    def forget(self, name: str) -> None:
        """Have supervisord give up a program whose port an adopted process holds; in the helper thread."""
        adopted.set_aside(self._paths, [name])
        self._loop.run_in_executor(self._pool, self._forget, name)

    def give_up(self, name: str) -> None:
        """Have supervisord not start a program again by itself; in the helper thread."""
        self._loop.run_in_executor(self._pool, self._stop, name)

    def _stop(self, name: str) -> None:
        supervisor = Supervisor(self._paths.supervisor_socket)
        with self._log.costs(name):
            # Of one that it has just reaped supervisord says that it does not run, and starts it again right after.
            for _ in range(_STOPS):
                supervisor.stop(name)
                info = supervisor.programs().get(name)
                if info is None or info.state in ("STOPPED", "FATAL"):
                    return
                time.sleep(_STOP)

    def _forget(self, name: str) -> None:
        supervisor = Supervisor(self._paths.supervisor_socket)
        with self._log.costs(name):
            supervisor.stop(name)
            supervisor.remove(name)

    async def _replace(self) -> None:
        wait = _AGAIN
        while True:
            trouble = await self._loop.run_in_executor(self._pool, self._start)
            if not trouble:
                break
            self._log.once("cannot-start-supervisord", reason=trouble, again_in=f"{wait:.0f}s")
            await asyncio.sleep(wait)
            wait = min(_LONGEST, 2 * wait)
        self._replacing = None
        program = self._paths.programs / f"{WATCHER}.conf"
        self._log("supervisord-back", reason="its watcher takes over" if self.below else "this watcher stays")
        if self.below and program.exists():
            self._hand_over()

    def _start(self) -> str:
        """Have one supervisord run; gives why there is none. In the helper thread."""
        try:
            if self.supervisor.running():
                return ""
            if by_systemd(self._paths):
                return f"systemd has not started {UNIT} yet"
            context = Context(self._paths)
            for words in context.programs(context.desired(context.applied_fleet)).files.put_right():
                self._log("put-right", reason=words)
            start_supervisord(self._paths)
        except (PortfleetError, OSError) as error:
            return str(error).splitlines()[0]
        except Exception as error:  # noqa: BLE001 (without supervisord nothing is started again: it is tried on)
            self._log.unexpected(SUPERVISOR, error)
            return repr(error)
        return ""


def _deserted(path: Path) -> bool:
    """Return whether no process listens on a unix socket; one that merely does not answer has one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        return connection.connect_ex(str(path)) in (errno.ECONNREFUSED, errno.ENOENT)
