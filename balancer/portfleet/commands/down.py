"""Stop everything and remove our table, and nothing else. The journal stays: slots and marks come back equal.

With SERVICE only that one: it stays down, also over a reboot and beside `apply`, until `portfleet up`. Says how many
established connections end. Where there are any it asks on a terminal, and needs --yes without one.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from portfleet.apply.busy import refuse_busy, wake
from portfleet.apply.context import Context
from portfleet.apply.teardown import take_down, take_down_service
from portfleet.core.desired import Desired
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import Journal
from portfleet.core.model import parse_instance
from portfleet.store import locks
from portfleet.store.clock import now


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service")
    parser.add_argument("--yes", action="store_true", help="do not ask, also where connections end")


def run(options: argparse.Namespace, context: Context) -> Exit:
    fleet = context.serving_fleet
    if options.service:
        context.service(fleet, options.service)
        was = context.desired(fleet).journal.services[options.service].down
        if was:
            print(f"{options.service}: already down by {was}. Undo with: portfleet up")
            return Exit.DONE
    if not context.paths.run.is_dir():
        print("nothing is up")
        return Exit.DONE
    desired = context.desired(fleet)
    names = [options.service] if options.service else list(fleet.services)
    with locks.operations(context.paths.operation_lock, names, why="down"):
        ending = _connections(context, desired, options.service)
        if ending and not options.yes:
            _ask(ending)
        if options.service:
            refuse_busy(context, options.service)
            _note(context, desired, options.service)
            take_down_service(context, context.desired(fleet), options.service)
            wake(context)
        else:
            take_down(context, desired)
    print(f"{', '.join(names)}: down; {ending:,} established connections ended. Undo with: portfleet up")
    return Exit.DONE


def _note(context: Context, desired: Desired, name: str) -> None:
    """Write down that the service is wanted down, before anything is: a watcher would start it again."""
    words = f"{locks.operator()} since {now()}"

    def down(journal: Journal) -> Journal:
        record = journal.services.get(name, desired.journal.services[name])
        return journal.with_service(name, replace(record, down=words))

    context.store.update(down)


def _connections(context: Context, desired: Desired, service: str | None) -> int:
    """Count what every instance that is there has, also where the config does not know it any more."""
    ending = 0
    for name, seen in context.observe(desired, probe=False).instances.items():
        instance = parse_instance(name)
        if instance and service in (None, instance.service):
            ending += seen.connections or 0
    return ending


def _ask(ending: int) -> None:
    words = f"{ending:,} established connections will end"
    if not sys.stdin.isatty():
        raise PortfleetError(f"{words}; nothing was done", hint="portfleet down --yes", code=Exit.FAILED)
    print(f"{words}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise PortfleetError("left as it was", code=Exit.FAILED)
