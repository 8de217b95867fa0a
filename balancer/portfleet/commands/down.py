"""Stop everything and remove our rules, and nothing else. The journal stays: slots come back as they were.

With SERVICE only that one is stopped; it stays down, also over a reboot and beside apply, until up. Established
connections end, and their number is said. If there are any, it asks on a terminal, and needs --yes without one. --json
prints what was done and how many connections ended as one object.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from portfleet.apply.busy import refuse_busy, wake
from portfleet.apply.context import Context
from portfleet.apply.noting import note_done
from portfleet.apply.teardown import take_down, take_down_service
from portfleet.core.desired import Desired
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import Journal
from portfleet.core.model import parse_instance
from portfleet.core.observed import Observed
from portfleet.core.printable import names, quantity
from portfleet.linux.reserve import await_free
from portfleet.screen.outcome import outcome
from portfleet.screen.output import fit, print_json
from portfleet.store import locks
from portfleet.store.clock import now
from portfleet.store.directories import make_directories
from portfleet.store.events import record
from portfleet.submit.closing import counted

EXAMPLES = (
    "portfleet down",
    "portfleet down echo --yes",
)

_UNDO = "portfleet up"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service")
    parser.add_argument("--yes", action="store_true", help="do not ask, even if connections end")


def run(options: argparse.Namespace, context: Context) -> Exit:
    fleet, service = context.serving_fleet, options.service
    if service:
        context.service(fleet, service)
        desired = context.desired(fleet)
        if was := desired.configured[service].down:
            words = f"{service}: already down by {was}"
            serving = _serving(desired, context.observe(desired, probe=False), service)
            return _say(context, words, outcome(Exit.DONE, serving=serving, notes=[words], undo=_UNDO))
    desired = context.desired(fleet)
    if _is_down(context, desired):
        return _say(context, "nothing is up", outcome(Exit.DONE, notes=["nothing is up"]))
    make_directories(context.paths)  # for the locks, even if another process has removed them
    services = [service] if service else list(fleet.services)
    with locks.operations(context.paths.operation_lock, services, why="down"):
        observed, ending = _look(context, desired, service)
        if ending and not options.yes:
            _ask(ending)
        what = {"what": service or "the fleet", "service": service}
        if service:
            refuse_busy(context, service)
        record(context.paths.events, "down-begun", connections=ending, **what)
        if service:
            _note(context, desired, service)
            take_down_service(context, context.desired(fleet), service)
            wake(context)
            await_free(desired.services[service].service.listen)
        else:
            take_down(context, desired)
        record(context.paths.events, "down", **what)
    steps, serving = _steps(observed, service), _serving(desired, observed, service)
    note_done(
        context, "down", f"take down {', '.join(services)}", f"{quantity(ending, 'established connection')} ended"
    )
    undo = f"{_UNDO} {service}" if service else _UNDO
    done = outcome(Exit.DONE, steps=steps, serving=serving, undo=undo, ended=ending)
    return _say(context, f"{', '.join(services)}: down; {quantity(ending, 'established connection')} ended", done)


def _look(context: Context, desired: Desired, service: str | None) -> tuple[Observed, int]:
    """Return what is there and how many connections."""
    return counted(lambda: context.observe(desired, probe=False), lambda observed: _there(observed, service))


def _is_down(context: Context, desired: Desired) -> bool:
    """Return whether the fleet has no process; one that was never up has not even a directory."""
    return not context.paths.run.is_dir() and not context.programs(desired).running()


def _say(context: Context, words: str, done: dict[str, Any]) -> Exit:
    """Print what came of it: ``words`` with what undoes it, or ``done`` if JSON was asked for."""
    if context.json:
        print_json(done)
    else:
        print(fit(f"{words}. Undo with: {done['undo']}" if done["undo"] else words))
    return Exit.DONE


def _there(observed: Observed, service: str | None) -> list[str]:
    """Return every instance that is there, also those the config does not know any more; only those of ``service``."""
    found = [(name, parse_instance(name)) for name in observed.instances]
    return [name for name, instance in found if instance and service in (None, instance.service)]


def _serving(desired: Desired, observed: Observed, down: str | None) -> list[str]:
    """Return the instances that serve when the service ``down`` does not, or (None) no service does."""
    left = [want.name for want in desired.instances() if want.takes and down not in (None, want.instance.service)]
    return [name for name in left if observed.seen(name).ready]


def _steps(observed: Observed, service: str | None) -> list[str]:
    """Return what has been done about what was ``observed`` before, in words and order."""
    stopped = [name for name in _there(observed, service) if observed.seen(name).pid is not None]
    steps = ["stop the watcher"] if observed.watcher and not service else []
    steps += [f"close {service} to clients"] if service and service in observed.plane.listens.values() else []
    steps += [f"stop {names(stopped)}"] if stopped else []
    steps += ["remove the rules" + (f" of {service}" if service else "")] if observed.plane.home is not None else []
    return steps + (["end supervisord"] if observed.supervisor and not service else [])


def _note(context: Context, desired: Desired, name: str) -> None:
    """Write down that the service is wanted down, before anything is: a watcher would start it again."""
    words = f"{locks.operator()} since {now()}"

    def down(journal: Journal) -> Journal:
        record = journal.services.get(name, desired.journal.services[name])
        return journal.with_service(name, replace(record, down=words))

    context.store.update(down)


def _ask(ending: int) -> None:
    words = f"{quantity(ending, 'established connection')} will end"
    if not sys.stdin.isatty():
        raise PortfleetError(f"{words}; nothing was done", hint="portfleet down --yes", code=Exit.FAILED)
    print(f"{words}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise PortfleetError("left as it was", code=Exit.FAILED)
