"""Taking down a fleet or one service: clients first, then processes, then rules, supervisord last."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from portfleet.apply.context import Context
from portfleet.apply.endings import HURRIED, Ending
from portfleet.core.changes import Change, DropAll, DropInstance, DropService, SetListens
from portfleet.core.desired import Desired
from portfleet.core.errors import PortfleetError
from portfleet.core.model import parse_instance
from portfleet.core.program import METRICS, WATCHER
from portfleet.linux import processes
from portfleet.store import locks
from portfleet.store.clock import Clock
from portfleet.supervise.members import Process, send
from portfleet.supervise.supervisor import Supervisor

#: The watcher has nothing to save: told once, it ends.
_WATCHER = Ending(again=None)
#: Seconds for a watcher to end, which waits for a supervisord that it has begun to start.
_PATIENCE = 30.0


def take_down(context: Context, desired: Desired, *, seconds: float = 60, clock: Clock | None = None) -> None:
    """Stop all instances, remove the table and end supervisord; what is down already is left so.

    Raises PortfleetError if a process, or supervisord after ``seconds``, does not end.
    """
    supervisor, programs, clock = context.supervisor, context.programs(desired), clock or Clock()
    while True:
        there = supervisor.programs() if supervisor.running() else {}
        programs.run(programs.ending([WATCHER] if WATCHER in there else [], _WATCHER))
        if (watcher := _lost_watcher(context)) is None:
            break
        _end(watcher, clock)  # which may be starting another supervisord
    if not locks.held(context.paths.watch_lock):
        context.paths.out.unlink(missing_ok=True)  # it tells of processes that end now: the next are others
    names = dict.fromkeys([*filter(parse_instance, there), *programs.members().names()])
    programs.run(programs.ending(names, HURRIED, alone=not supervisor.running()))
    programs.run(programs.ending([name for name in (*desired.own, METRICS) if name in there], HURRIED))
    with locks.table(context.paths.table_lock):
        if context.plane.home() is not None:
            context.plane.run((DropAll(),))
    _end_supervisord(supervisor, seconds=seconds, clock=clock)


def _lost_watcher(context: Context) -> Process | None:
    """Return a watcher that outlived its supervisord, and would start another and all instances with it."""
    pid = locks.process_of(context.paths.watch_lock)
    if pid is None or processes.environment(pid).get(b"SUPERVISOR_PROCESS_NAME") != WATCHER.encode():
        return None  # one that an operator runs by hand starts nothing when all has ended
    return Process(pid, processes.start_time(pid))


def _end(process: Process, clock: Clock) -> None:
    """End a process that has nothing to save; raise PortfleetError if it does not end."""
    send([process], signal.SIGTERM)
    began = clock.monotonic()
    while process.alive:
        if clock.monotonic() - began > _PATIENCE:
            raise PortfleetError(f"the watcher (pid {process.pid}) does not end", hint=f"kill -KILL {process.pid}")
        clock.sleep(0.02)


def take_down_service(context: Context, desired: Desired, service: str) -> None:
    """Close a service to clients, stop its instances and remove its rules; the others are not touched.

    ``desired``: without the service. Its instances are those that are there, even if the config does not know them
    any more.
    """
    with locks.table(context.paths.table_lock):
        state = context.plane.observe()
        listens = {listen: name for listen, name in state.listens.items() if name == service}
        context.plane.run((SetListens(remove=listens),))
    there = context.supervisor.programs() if context.supervisor.running() else {}
    programs = context.programs(desired)
    names = dict.fromkeys(_of(service, [*there, *programs.members().names()]))
    programs.run(programs.ending(names, HURRIED, alone=not context.supervisor.running()))
    with locks.table(context.paths.table_lock):
        gone: list[Change] = [DropService(service)] if service in state.services else []
        gone += [DropInstance(name) for name in _of(service, state.instances)]
        context.plane.run(tuple(gone))


def _end_supervisord(supervisor: Supervisor, *, seconds: float, clock: Clock) -> None:
    """Shut supervisord down and wait for its process, which outlives its socket by some milliseconds."""
    process: Process | None = None
    if supervisor.running():
        pid = supervisor.pid()
        process = Process(pid, processes.start_time(pid))
        supervisor.shutdown()
    deadline = clock.monotonic() + seconds
    while supervisor.ending() or (process is not None and process.alive):
        if clock.monotonic() > deadline:
            raise PortfleetError(f"supervisord has not ended after {seconds:.0f} s", hint="see its log")
        clock.sleep(0.02)


def _of(service: str, names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that are instances of the service."""
    found = [(name, parse_instance(name)) for name in names]
    return [name for name, instance in found if instance and instance.service == service]
