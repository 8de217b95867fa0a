"""Show who is working on a service, since when and why: a command in progress or a running operation."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from portfleet.apply.context import Context
from portfleet.core.errors import Exit
from portfleet.core.journal import Journal
from portfleet.screen.output import print_json
from portfleet.store import locks

EXAMPLES = (
    "portfleet lock",
    "portfleet lock echo",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service")


def run(options: argparse.Namespace, context: Context) -> Exit:
    fleet = context.serving_fleet
    if options.service:
        context.service(fleet, options.service)
    names = [options.service] if options.service else list(fleet.services)
    holders = {name: locks.holder_of(context.paths.operation_lock(name)) for name in names}
    journal = context.store.read() or Journal()
    running = {name: operation for name in names if (operation := journal.running(name))}
    if context.json:
        found = {name: asdict(holder) if holder else None for name, holder in holders.items()}
        for name, operation in running.items():
            why = f"{operation.verb}: {operation.words}"
            found[name] = {"who": operation.who, "since": operation.since, "why": why, "operation": operation.number}
        print_json(found)
        return Exit.DONE
    for name, holder in holders.items():
        if operation := running.get(name):
            words = f"{operation.verb}: {operation.words}, {operation.phase} (operation {operation.number})"
            print(f"{name}: {operation.who} since {operation.since}: {words}")
        else:
            print(f"{name}: {holder or 'free'}")
    return Exit.DONE
