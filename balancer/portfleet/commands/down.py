"""Stop everything and remove our table, and nothing else. The journal stays: slots and marks come back equal.

Says how many established connections end. Where there are any it asks on a terminal, and needs --yes without one.
"""

from __future__ import annotations

import argparse
import sys

from portfleet import locks
from portfleet.context import Context
from portfleet.desired import Desired
from portfleet.errors import Exit, PortfleetError
from portfleet.teardown import take_down, take_down_service


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service")
    parser.add_argument("--yes", action="store_true", help="do not ask, also where connections end")


def run(options: argparse.Namespace, context: Context) -> Exit:
    fleet = context.serving_fleet
    if options.service:
        context.service(fleet, options.service)
    if not context.paths.run.is_dir():
        print("nothing is up")
        return Exit.DONE
    desired = context.desired(fleet)
    names = [options.service] if options.service else list(fleet.services)
    with locks.operations(context.paths.operation_lock, names, why="down"):
        ending = _connections(context, desired, names)
        if ending and not options.yes:
            _ask(ending)
        if options.service:
            take_down_service(context, desired.services[options.service])
        else:
            take_down(context)
    print(f"{', '.join(names)}: down; {ending:,} established connections ended. Undo with: portfleet up")
    return Exit.DONE


def _connections(context: Context, desired: Desired, names: list[str]) -> int:
    observed = context.observe(desired, probe=False)
    wanted = [want.name for name in names for want in desired.services[name].instances]
    return sum(observed.seen(name).connections or 0 for name in wanted)


def _ask(ending: int) -> None:
    words = f"{ending:,} established connections will end"
    if not sys.stdin.isatty():
        raise PortfleetError(f"{words}; nothing was done", hint="portfleet down --yes", code=Exit.FAILED)
    print(f"{words}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise PortfleetError("left as it was", code=Exit.FAILED)
