"""Taking down a fleet or one service: clients first, then processes, then rules, supervisord last."""

from __future__ import annotations

import time
from collections.abc import Callable

from portfleet import adopted, locks
from portfleet.context import Context
from portfleet.errors import PortfleetError
from portfleet.kernel.changes import Change, DropAll, DropInstance, DropService, PointSlots, SetListens
from portfleet.model import parse_instance
from portfleet.program import WATCHER
from portfleet.wants import ServiceWant


def take_down(context: Context, *, seconds: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
    """Stop all instances, remove the table and end supervisord; what is down already is left so."""
    supervisor = context.supervisor
    if supervisor.running():
        _stop(context, [WATCHER], kill=False)
        _stop(context, [name for name in supervisor.programs() if parse_instance(name)], kill=True)
    adopted.end(context.paths, adopted.alive(context.paths.processes), supervisor=None, seconds=seconds, hurry=True)
    with locks.table(context.paths.table_lock):
        if context.kernel.observe().home is not None:
            context.kernel.run((DropAll(),))
    if supervisor.running():
        supervisor.shutdown()
        deadline = clock() + seconds
        while supervisor.running():
            if clock() > deadline:
                raise PortfleetError(f"supervisord has not ended after {seconds:.0f} s", hint="see its log")
            time.sleep(0.02)


def take_down_service(context: Context, want: ServiceWant) -> None:
    """Close a service to clients, stop its instances and remove its rules; the others are not touched."""
    with locks.table(context.paths.table_lock):
        state = context.kernel.observe()
        listens = {listen: name for listen, name in state.listens.items() if name == want.name}
        slots = {slot: (old, None) for slot, old in enumerate(state.slots.get(want.name, ())) if old}
        context.kernel.run((SetListens(remove=listens), PointSlots(want.name, slots)))
    if context.supervisor.running():
        known = context.supervisor.programs()
        _stop(context, [instance.name for instance in want.instances if instance.name in known], kill=True)
    names = [instance.name for instance in want.instances]
    adopted.end(context.paths, names, supervisor=None, seconds=60, hurry=True)
    with locks.table(context.paths.table_lock):
        gone: list[Change] = [DropService(want.name)] if want.name in state.services else []
        gone += [DropInstance(i.name) for i in want.instances if i.name in state.instances]
        context.kernel.run(tuple(gone))


def _stop(context: Context, names: list[str], *, kill: bool) -> None:
    """Stop programs and forget them; with ``kill`` a daemon that drains is told a second time, which ends it."""
    supervisor = context.supervisor
    for name in names:
        supervisor.stop(name)
    if kill:
        for name in names:
            supervisor.signal(name, "TERM")
    while names:
        names = [name for name in names if not supervisor.remove(name)]
        time.sleep(0.02)
