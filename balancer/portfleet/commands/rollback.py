"""Go back to the release the other colour ran before, with its established connections handed back.

With --to N: to the release that was live when operation N of the history had ended.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from portfleet.commands.cutover import add_cutover_options, begin
from portfleet.context import Context
from portfleet.errors import Exit, PortfleetError
from portfleet.journal import ColourRecord
from portfleet.model import other
from portfleet.operate.submit import add_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE")
    parser.add_argument("--to", type=int, metavar="N", help="the number of an ended cutover or rollback in the history")
    add_cutover_options(parser)
    add_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    service = context.service(context.fleet, options.service)
    desired = context.desired(context.fleet)
    want, record = desired.services[service.name], desired.journal.services[service.name]
    colour = other(want.live)
    before = record.colours.get(colour)
    if options.to is not None:
        before = _at(context, service.name, options.to)
    if before is None:
        raise PortfleetError(
            f"{service.name} has nothing to go back to: {colour} has never run",
            hint="see: portfleet history",
            code=Exit.USAGE,
        )
    words = f"roll {service.name} back to {colour}" + (f", release {before.release}" if before.release else "")
    return begin(options, context, words=words, verb="rollback", new=replace(before, since=None), canary=None)


def _at(context: Context, service: str, number: int) -> ColourRecord:
    """Give what was live when operation ``number`` had ended."""
    history = context.journal(context.fleet).history
    for entry in history:
        if entry.number == number and entry.service == service and entry.ok and entry.verb in ("cutover", "rollback"):
            release = entry.words.partition(", release ")[2].partition(" (")[0]
            return ColourRecord(release or None)
    raise PortfleetError(
        f"operation {number} is no ended cutover or rollback of {service}",
        hint="see: portfleet history",
        code=Exit.USAGE,
    )
