"""Take over where new connections go from another box: what `portfleet export` printed there.

Slots, marks, pins, denials and what operators asked of instances become as they are there; instances, releases and
established connections of this box stay as they are. The configs of both boxes must agree in what decides this, and the
same colour must be live with the same release: otherwise it is refused and says what differs. The watcher brings the
rules up at once.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

from portfleet.apply.busy import refuse_busy, wake
from portfleet.apply.context import Context
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.exported import Exported, differences, obstacles, taken_over
from portfleet.core.journal import HistoryEntry, Journal
from portfleet.core.printable import quantity
from portfleet.store import locks
from portfleet.store.clock import now
from portfleet.submit.exported import own, read
from portfleet.submit.follow import say
from portfleet.submit.operation import add_change_options

EXAMPLES = (
    "portfleet import echo.json",
    "portfleet import - --dry-run",
)

#: Seconds for which the watcher is waited for; it takes less than half of one.
_PATIENCE = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what export printed; - reads stdin")
    add_change_options(parser)


def run(options: argparse.Namespace, context: Context) -> Exit:
    theirs = read(options.file)
    names = sorted(theirs.services)
    journal = context.desired(context.applied_fleet).journal
    if found := list(obstacles(context.applied_fleet, journal, theirs)):
        raise PortfleetError(
            "\n".join(["the boxes differ, nothing was imported:", *(f"  {line}" for line in found)]),
            hint="make fleet.toml equal on both and apply it, and have both run the same release (portfleet cutover)",
            code=Exit.USAGE,
        )
    entry = {"verb": "import", "services": names, "ok": True}
    changes = [line for line in differences(own(context, names), theirs) if ": slots point" not in line]
    if not changes:
        return say(context, entry | {"outcome": "already"}, f"{', '.join(names)}: already as there")
    if options.dry_run:
        words = "; ".join(changes)
        return say(context, entry | {"dry_run": True, "changes": changes}, f"would change {words}; nothing was done")
    _write(context, theirs, names, f"; {options.why}" if options.why else "")
    wake(context)
    pending = _pending(context)
    outcome = f"imported {', '.join(names)}: {'; '.join(changes)}"
    outcome += (
        f". {quantity(pending, 'step', 'is')} left to do: portfleet apply" if pending else ". The rules are as there"
    )
    return say(context, entry | {"outcome": "imported", "changes": changes, "pending": pending}, outcome)


def _write(context: Context, theirs: Exported, names: list[str], why: str) -> None:
    """Write it into the journal, each service with an entry in the history, under the locks of all of them."""
    first = context.desired(context.applied_fleet).journal

    def change(journal: Journal) -> Journal:
        services = {**first.services, **journal.services}
        after = taken_over(Journal(services, journal.operations, journal.history, journal.last_number), theirs)
        for name in names:
            done = HistoryEntry(
                after.next_number(), now(), locks.operator(), name, "import", f"import {name}{why}", "done"
            )
            after = after.noting(done)
        return after

    with ExitStack() as held:
        for name in names:
            lock = context.paths.operation_lock(name)
            held.enter_context(locks.operation(lock, service=name, why=f"import: {name}{why}"))
            refuse_busy(context, name)
        context.store.update(change)


def _pending(context: Context) -> int:
    """Wait until the watcher has done what the new journal asks for; return how many steps are left."""
    from portfleet.core.plan import make_plan

    deadline = time.monotonic() + _PATIENCE
    while True:
        desired = context.desired(context.applied_fleet)
        steps = make_plan(desired, context.observe(desired)).steps
        if not steps or time.monotonic() > deadline:
            return len(steps)
        time.sleep(0.05)
