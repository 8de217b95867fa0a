"""Say who works on a service, since when and why."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from portfleet import locks
from portfleet.context import Context
from portfleet.errors import Exit
from portfleet.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service")


def run(options: argparse.Namespace, context: Context) -> Exit:
    fleet = context.serving_fleet
    if options.service:
        context.service(fleet, options.service)
    names = [options.service] if options.service else list(fleet.services)
    holders = {name: locks.holder_of(context.paths.operation_lock(name)) for name in names}
    if context.json:
        print_json({name: asdict(holder) if holder else None for name, holder in holders.items()})
        return Exit.DONE
    for name, holder in holders.items():
        print(f"{name}: {holder or 'nobody'}")
    return Exit.DONE
