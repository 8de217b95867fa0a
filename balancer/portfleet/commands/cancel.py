"""Give up the operation that runs on a service; what it did is undone where it can be, and said where it stays."""

from __future__ import annotations

import argparse
from dataclasses import replace

from portfleet import journal_file
from portfleet.context import Context
from portfleet.errors import Exit
from portfleet.journal import Journal
from portfleet.operate.submit import follow, require_watcher, wake


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE")


def run(options: argparse.Namespace, context: Context) -> Exit:
    context.service(context.fleet, options.service)
    require_watcher(context)
    number = 0

    def change(journal: Journal) -> Journal:
        nonlocal number
        running = journal.running(options.service)
        if running is None:
            return journal
        number = running.number
        return journal.with_operation(replace(running, cancelled=True))

    journal_file.update(context.paths.journal, change)
    if not number:
        print(f"nothing runs on {options.service}")
        return Exit.DONE
    wake(context)
    entry = follow(context, number)
    print(f"{entry.verb} {entry.service}: {entry.outcome}")
    return Exit.DONE
