"""Taking down a fleet or one service: clients first, then processes, then rules, supervisord last.

A process has ten seconds from its SIGTERM to SIGKILL: time to save something, not to let connections finish. All
are told twice, so that portfleet-daemon does not drain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from portfleet.apply.context import Context
from portfleet.core.changes import Change, DropAll, DropInstance, DropService, PointSlots, SetListens
from portfleet.core.desired import DesiredService
from portfleet.core.errors import PortfleetError
from portfleet.core.model import parse_instance
from portfleet.core.program import WATCHER
from portfleet.store import locks
from portfleet.supervise import adopted

#: Seconds from SIGTERM to SIGKILL, and from that to giving up.
_PATIENCE, _LONGEST = 10.0, 30.0


def take_down(context: Context, *, seconds: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
    """Stop all instances, remove the table and end supervisord; what is down already is left so.

    Raises PortfleetError where a process, or supervisord after ``seconds``, does not end.
    """
    supervisor = context.supervisor
    if supervisor.running():
        _stop(context, [WATCHER], clock=clock, twice=False)
        _stop(context, [name for name in supervisor.programs() if parse_instance(name)], clock=clock)
    alive = adopted.alive(context.paths.processes)
    adopted.end(context.paths, alive, supervisor=None, seconds=_PATIENCE, hurry=True, clock=clock)
    with locks.table(context.paths.table_lock):
        if context.plane.observe().home is not None:
            context.plane.run((DropAll(),))
    if supervisor.running():
        supervisor.shutdown()
    deadline = clock() + seconds
    while supervisor.running() or supervisor.ending():
        if clock() > deadline:
            raise PortfleetError(f"supervisord has not ended after {seconds:.0f} s", hint="see its log")
        time.sleep(0.02)


def take_down_service(context: Context, want: DesiredService, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Close a service to clients, stop its instances and remove its rules; the others are not touched.

    Its instances are those that are there, also where the config does not know them any more.
    """
    with locks.table(context.paths.table_lock):
        state = context.plane.observe()
        listens = {listen: name for listen, name in state.listens.items() if name == want.name}
        slots = {slot: (old, None) for slot, old in enumerate(state.slots.get(want.name, ())) if old}
        context.plane.run((SetListens(remove=listens), PointSlots(want.name, slots)))
    if context.supervisor.running():
        _stop(context, _of(want, context.supervisor.programs()), clock=clock)
    names = {i.name for i in want.instances}.union(_of(want, adopted.alive(context.paths.processes)))
    adopted.end(context.paths, names, supervisor=None, seconds=_PATIENCE, hurry=True, clock=clock)
    with locks.table(context.paths.table_lock):
        gone: list[Change] = [DropService(want.name)] if want.name in state.services else []
        gone += [DropInstance(name) for name in _of(want, state.instances)]
        context.plane.run(tuple(gone))


def _of(want: DesiredService, names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that are instances of the service."""
    found = [(name, parse_instance(name)) for name in names]
    return [name for name, instance in found if instance and instance.service == want.name]


def _stop(context: Context, names: list[str], *, clock: Callable[[], float], twice: bool = True) -> None:
    """End programs, told ``twice`` or once, and forget them; raises PortfleetError for one that outlives SIGKILL."""
    supervisor = context.supervisor
    for name in names:
        supervisor.stop(name)
    for name in names if twice else ():
        supervisor.signal(name, "TERM")
    for seconds in (_PATIENCE, _LONGEST):
        deadline = clock() + seconds
        while (names := [name for name in names if not supervisor.remove(name)]) and clock() < deadline:
            time.sleep(0.02)
        for name in names:
            supervisor.signal(name, "KILL")
    if names:
        raise PortfleetError(
            f"{', '.join(names)} has not ended by SIGKILL", hint=f"see what it waits for: portfleet logs {names[0]}"
        )
