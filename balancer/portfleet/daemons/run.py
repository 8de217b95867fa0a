"""Runs a probe's command: a step at a time, as `talk` goes through a conversation, and never waiting.

setpriv(1) changes the user and has the command end with this process: a fork that does so itself would copy the page
tables of the watcher, where vfork(2) copies nothing. Output goes into a memory file that cannot grow beyond its size,
so that no command waits for a reader, and none fills memory. The command is a session of its own, which is killed
when it has ended or its time is up.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import select
import signal
import subprocess
from contextlib import suppress

from portfleet.daemons.exchange import Command, Exchange, Verdict
from portfleet.linux.machine import environment_of, search_path
from portfleet.supervise.ini import started_environment

#: Bytes of output that a command may write; a write beyond them fails (EPERM, memfd_create(2)).
_OUTPUT = 65_536
#: Commands that were killed and have not ended yet, as one that waits for a disk.
_unreaped: set[int] = set()


class Run:
    """One command and its process."""

    def __init__(self, exchange: Exchange, command: Command) -> None:
        self.exchange, self._command = exchange, command
        self._pid = self._watched = self._output = -1

    def step(self) -> Verdict:
        """Start it, or look whether it has ended; None if it goes on."""
        if self._pid < 0:
            try:
                self._start()
            except (OSError, KeyError, ValueError) as error:
                return f"{self.exchange.place}: cannot be run: {error}"
            return None
        if os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._kill()  # what it has left, while its number is still that of the group
        _, status = os.waitpid(self._pid, 0)
        self._pid = -1
        length = min(os.lseek(self._output, 0, os.SEEK_CUR), _OUTPUT)
        return self.exchange.ended(os.waitstatus_to_exitcode(status), os.pread(self._output, length, 0))

    def close(self) -> None:
        """End what is left of it, without waiting for that."""
        if self._pid >= 0:
            self._kill()
            _unreaped.add(self._pid)
            self._pid = -1
        for descriptor in (self._watched, self._output):
            if descriptor >= 0:
                os.close(descriptor)
        self._watched = self._output = -1
        for pid in list(_unreaped):
            if os.waitpid(pid, os.WNOHANG)[0]:
                _unreaped.discard(pid)

    def awaited(self) -> tuple[int, int]:
        """Return the descriptor and the events of poll(2) after which the next step is of use; -1 before the first."""
        return self._watched, select.POLLIN

    def _start(self) -> None:
        self._output = os.memfd_create("probe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._output, _OUTPUT)
        fcntl.fcntl(self._output, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        command = self._command
        basis = {"PATH": search_path(), "LANG": "C.UTF-8", **environment_of(command.user)}
        basis |= {
            name: value for name, value in started_environment(command.files).items() if name != "PORTFLEET_CONTROL"
        }
        process = subprocess.Popen(
            [*_as_user(command.user), *command.words],
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, cwd=command.directory or "/",
            env={**basis, **command.environment}, start_new_session=True,
        )  # fmt: skip
        self._pid, process.returncode = process.pid, 0  # it is reaped here
        self._watched = os.pidfd_open(self._pid)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)


def _as_user(user: str | None) -> list[str]:
    """Return the words before a command that is run by ``user`` (None: this one) and ends with this process."""
    found = pwd.getpwnam(user) if user else None
    change = [f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--init-groups"] if found else []
    return ["setpriv", *change, "--pdeathsig=KILL", "--"]
