"""Cancel the operation that runs on a service, and undo what it did as far as that is possible.

What cannot be undone, such as connections that were closed, is reported. To undo an operation that has finished, use
rollback.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from portfleet.apply.busy import wake
from portfleet.apply.context import Context
from portfleet.core.errors import Exit
from portfleet.core.journal import HistoryEntry, Journal
from portfleet.core.model import other
from portfleet.core.operations import Operation, policy_of
from portfleet.core.printable import quantity
from portfleet.store.events import record
from portfleet.submit.closing import ends, established
from portfleet.submit.follow import already, follow, say
from portfleet.submit.operation import add_dry_run, add_wait_options
from portfleet.submit.targets import service_want

EXAMPLES = ("portfleet cancel echo",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="a service of the config")
    add_dry_run(parser)
    add_wait_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    context.service(context.applied_fleet, options.service)
    journal = context.store.read() or Journal()
    running = journal.running(options.service)
    if running is None:
        return already(context, "cancel", options.service, f"nothing runs on {options.service}")
    words = f"cancel operation {running.number}, {running.verb}: {running.words}"
    if options.dry_run:
        words += f"; {_effect(context, running)}"
        entry = {"verb": "cancel", "service": options.service, "dry_run": True, "words": words}
        return say(context, entry, f"would {words}; nothing was done")
    ask(context, running.number)
    return told(context, running.number, wait=options.wait)


def _effect(context: Context, running: Operation) -> str:
    """Return what is undone of an operation, with how many connections that moves or closes."""
    from portfleet.core.work.cutover import Cutover
    from portfleet.core.work.drain import Drain

    if isinstance(running.work, Drain):
        names = ", ".join(running.work.instances)
        return f"{names} then as before it; connections that have ended or were handed off stay so, none is closed"
    if isinstance(running.work, Cutover):
        new, old = running.work.colour, other(running.work.colour)
        want = service_want(context, running.service)
        there = established(context, [i.name for i in want.of(new)])
        end = ends(there, policy_of(want.service.drain))
        kept = f"{new} has {quantity(there, 'connection')}: handed off to it, otherwise {end}"
        return f"{old} gets all new connections; {kept}" if there else f"{old} gets all new connections"
    return "what it did is undone as far as that is possible; connections that have ended stay so"


def ask(context: Context, number: int, *, also: Callable[[Journal], Journal] = lambda journal: journal) -> bool:
    """Mark operation ``number`` as cancelled, and change what ``also`` does; return False if it has ended already."""

    def change(journal: Journal) -> Journal:
        running = journal.operation(number)
        return journal if running is None else also(journal.with_operation(replace(running, cancelled=True)))

    running = context.store.update(change).operation(number)
    if running is not None:
        record(context.paths.events, "cancel-asked", operation=number, service=running.service)
        wake(context)
    return running is not None


def told(context: Context, number: int, *, wait: bool) -> Exit:
    """Print what comes of the cancelled operation ``number``; return DONE, also if it had ended before it was marked.

    FAILED if what it did stays, TIMEOUT if an instance that is to serve again is not ready in time.
    """
    if not wait:
        entry = {"verb": "cancel", "number": number, "ok": True, "outcome": "begun"}
        return say(context, entry, f"begun. Follow it with: portfleet history --follow {number}")
    ended = follow(context, number)
    words = f"{ended.verb} {ended.service}: {ended.outcome}"
    code, cancelled = code_of(ended), not ended.ok
    entry = {"verb": "cancel", "number": number, "ok": code is Exit.DONE, "cancelled": cancelled}
    say(context, entry | {"outcome": ended.outcome}, words)
    return code


def code_of(ended: HistoryEntry) -> Exit:
    """Return the exit code of who cancelled an operation that ended so."""
    if not ended.ok and ended.stays:
        return Exit.FAILED
    return Exit.TIMEOUT if not ended.ok and ended.code == Exit.TIMEOUT else Exit.DONE
