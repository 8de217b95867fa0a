"""Show what was done, by whom, and how it ended; running operations come last.

The journal keeps the last 200; older ones come from the events, as far as those go back.

With --follow N: wait for operation N and show its progress.
"""

from __future__ import annotations

import argparse
from contextlib import suppress

from portfleet.apply.context import Context
from portfleet.core.errors import Exit
from portfleet.core.events import Event
from portfleet.core.history import whole
from portfleet.core.journal import Journal, entry_json
from portfleet.core.operations import to_json
from portfleet.screen.bar import line
from portfleet.screen.output import fit, paint, print_json
from portfleet.store.events import EventFile
from portfleet.submit import options as read
from portfleet.submit.follow import ended

EXAMPLES = (
    "portfleet history",
    "portfleet history echo",
    "portfleet history --follow 12",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="only this service")
    parser.add_argument(
        "--follow", type=read.number, metavar="OPERATION", help="wait for this operation and show its progress"
    )


def run(options: argparse.Namespace, context: Context) -> Exit:
    if options.follow is not None:
        return ended(context, options.follow)
    if options.service:
        context.service(context.serving_fleet, options.service)
    journal = context.store.read() or Journal()
    events: list[Event] = []
    with suppress(OSError):  # without them there is what the journal keeps
        events = EventFile(context.paths.events).read()
    kept = whole(events, journal.history)
    done = [entry for entry in kept if options.service in (None, entry.service) or not entry.service]
    running = [operation for operation in journal.operations if options.service in (None, operation.service)]
    if context.json:
        print_json({"history": [entry_json(entry) for entry in done], "running": [to_json(one) for one in running]})
        return Exit.DONE
    for entry in done:
        print(fit(f"{entry.number:4}  {entry.at}  {entry.who}  {entry.verb}: {entry.words}", indent=8))
        outcome = fit(f"      {entry.outcome}")
        print(outcome if entry.ok else paint(outcome, "red"))
    for operation in running:
        print(fit(f"{operation.number:4}  {operation.since}  {operation.who}  {line(operation)}", indent=8))
    if not done and not running:
        print("nothing was done yet")
    return Exit.DONE
