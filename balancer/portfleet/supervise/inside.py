"""What runs inside supervisord, which loads it as an RPC interface: it keeps orphans and its files, tells of programs.

supervisord becomes the parent of what its programs leave behind (PR_SET_CHILD_SUBREAPER of prctl(2), Linux 3.4), so
that a daemon that has put itself into the background is told from a stranger, also if its environment is overwritten.

Others clean directories: a socket, pid file or log that was removed is made anew. supervisord would write on to files
without a name, and could not be asked any more until its end, with which the output of its instances is lost.

A stop right after a start would be lost: until it has become its program, a child has supervisord's handlers of
signals, which only note that there was one. It was lost in 75 of 150 cases, and the program ran until stopwaitsecs.

Of 1,024 programs supervisord's own answer is 1 MB of XML, which costs both sides a multiple of what `programs` does.
That also says by which text each program runs, so that no look has supervisord read 1,024 files again.

After each call supervisord goes through all of its programs, a few times: 1,024 that are started by two calls each take
it over a minute. So `each` does the same to many, for a moment at a time (docs/decisions/0031).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from functools import cache
from pathlib import Path
from typing import Any

from supervisor import events
from supervisor.http import deferring_http_channel, make_http_servers
from supervisor.rpcinterface import SupervisorNamespaceRPCInterface
from supervisor.states import SupervisorStates, getProcessStateDescription
from supervisor.xmlrpc import Faults, RPCError

from portfleet.supervise.program_digest import digest
from portfleet.supervise.program_files import read_each_once

_PR_SET_CHILD_SUBREAPER = 36
#: Bytes that are read and sent at a time. For each part supervisord goes through all of its programs, so with its own
#: 4,096 the answer about 1,024 takes 150 ms of CPU.
_AT_ONCE = 1 << 18
#: Seconds that `each` may take, in which no other call is answered and no program is reaped.
_MOMENT = 0.2
#: The text by which each program runs, as a digest. Not an object's: a socket that is made anew has another `Inside`.
_runs_by: dict[str, str] = {}
#: The signals that were blocked before a fork that is under way.
_masked: list[set[signal.Signals | int]] = []


def make(supervisord: Any) -> Inside:
    """Return the RPC interface `portfleet`. supervisord calls this for each of its servers."""
    return Inside(supervisord)


class Inside:
    """Looks after one supervisord, once it runs (it becomes a daemon, another process, before that)."""

    def __init__(self, supervisord: Any) -> None:
        self._supervisord = supervisord
        self._own = SupervisorNamespaceRPCInterface(supervisord)
        read_each_once()
        deferring_http_channel.ac_in_buffer_size = deferring_http_channel.ac_out_buffer_size = _AT_ONCE
        events.clear()  # of the server before this one; supervisord subscribes to none itself
        events.subscribe(events.SupervisorRunningEvent, lambda _: self._begin())
        events.subscribe(events.ProcessGroupAddedEvent, lambda event: self._note(event.group))
        events.subscribe(events.Tick5Event, lambda _: self._keep())

    def programs(self) -> str:
        """Return what `ProgramInfo` has of each program, as JSON; raise RPCError while supervisord shuts down."""
        if self._supervisord.options.mood < SupervisorStates.RUNNING:
            raise RPCError(Faults.SHUTDOWN_STATE)
        groups = self._supervisord.process_groups.values()
        return json.dumps([_told(process) for group in groups for process in group.processes.values()])

    def each(self, calls: str) -> str:
        """Call methods of supervisord's own interface, and return the faults of those that were called, in order.

        ``calls`` is a JSON array of [method, argument, …]. The answer is one of null (done) or [code, words], shorter
        than that if a moment did not suffice: the caller asks for the others again.
        """
        faults: list[list[Any] | None] = []
        until = time.monotonic() + _MOMENT
        for method, *arguments in json.loads(calls):
            if faults and time.monotonic() > until:
                break
            try:
                getattr(self._own, method)(*arguments)
            except RPCError as error:
                faults.append([error.code, error.text])
            else:
                faults.append(None)
        return json.dumps(faults)

    def _begin(self) -> None:
        adopt_orphans()
        end_children_by_signals()
        for name in self._supervisord.process_groups:
            self._note(name)

    def _note(self, name: str) -> None:
        """Note by which text a program that was just added runs: whoever writes its file has it added anew as well."""
        file = Path(self._supervisord.options.configfile).parent / "programs" / f"{name}.conf"
        try:
            _runs_by[name] = digest(file.read_bytes())
        except OSError:
            _runs_by.pop(name, None)

    def _keep(self) -> None:
        options = self._supervisord.options
        try:
            if not Path(options.pidfile).exists():
                Path(options.pidfile).parent.mkdir(mode=0o711, parents=True, exist_ok=True)
                options.write_pidfile()
            if any(not Path(config["file"]).is_socket() for config in options.server_configs):
                self._serve_anew()
            if any(not log.exists() for log in self._logs()):
                options.logger.info("a log was removed; all are opened anew")
                options.reopenlogs()
                for group in self._supervisord.process_groups.values():
                    group.reopenlogs()
        except (OSError, ValueError) as error:  # as without a disk: supervisord goes on, and tries it again
            options.logger.warn(f"cannot make what was removed: {error}")

    def _serve_anew(self) -> None:
        options = self._supervisord.options
        for config, _ in options.httpservers:
            Path(config["file"]).parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        servers = make_http_servers(options, self._supervisord)
        for _, server in options.httpservers:
            server.close()
        options.httpservers = servers
        options.logger.info("the socket was removed; it is made anew")

    def _logs(self) -> list[Path]:
        groups = self._supervisord.process_groups.values()
        running = [process for group in groups for process in group.processes.values() if process.pid]
        names = [self._supervisord.options.logfile, *(process.config.stdout_logfile for process in running)]
        return [Path(name) for name in names if name]


def _told(process: Any) -> dict[str, Any]:
    """Return what is told of a program, by the names that getAllProcessInfo has."""
    name = process.config.name
    return {
        "name": name,
        "statename": getProcessStateDescription(process.get_state()),
        "pid": process.pid,
        "start": int(process.laststart),
        "stop": int(process.laststop),
        "exitstatus": process.exitstatus or 0,
        "spawnerr": process.spawnerr or "",
        "runs_by": _runs_by.get(name),
    }


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs; raise OSError if the kernel does not know that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@cache
def end_children_by_signals() -> None:
    """Have signals end a child from its first moment; those that come while it is made wait for it."""
    os.register_at_fork(
        before=lambda: _masked.append(signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())),
        after_in_parent=_unmask,
        after_in_child=_take_default_handlers,
    )


def _take_default_handlers() -> None:
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    _unmask()


def _unmask() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masked.pop())
