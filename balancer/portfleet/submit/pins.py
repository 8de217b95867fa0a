"""What `pin` and `unpin` share: the journal first, then the kernel, both at once and under the operation lock."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from portfleet.apply.busy import refuse_busy
from portfleet.apply.context import Context
from portfleet.core.changes import SetService
from portfleet.core.desired import DesiredService
from portfleet.core.errors import Exit
from portfleet.core.history import fields_of
from portfleet.core.journal import HistoryEntry, Journal, entry_json
from portfleet.core.records import ServiceRecord
from portfleet.store import locks
from portfleet.store.clock import now
from portfleet.store.events import record
from portfleet.submit.follow import say
from portfleet.submit.operation import point_slots
from portfleet.submit.targets import record_of


def change_pins(
    context: Context,
    want: DesiredService,
    options: argparse.Namespace,
    *,
    verb: str,
    words: str,
    outcome: str,
    undo: str,
    change: Callable[[ServiceRecord], ServiceRecord],
) -> Exit:
    """Change a service's record and bring its rules and elements up to that; raises PortfleetError."""
    if options.dry_run:
        entry = {"verb": verb, "service": want.name, "dry_run": True, "words": words}
        return say(context, entry, f"would {words}; nothing was done")
    reason = f" ({options.why})" if options.why else ""
    with locks.operation(context.paths.operation_lock(want.name), service=want.name, why=f"{verb}: {words}"):
        refuse_busy(context, want.name)
        first = record_of(context, want.name)

        def changed(journal: Journal) -> Journal:
            return journal.with_service(want.name, change(journal.services.get(want.name, first)))

        context.store.update(changed)
        _bring_up(context, want.name)
        done = _note(context, HistoryEntry(0, now(), locks.operator(), want.name, verb, words + reason, outcome))
        record(context.paths.events, "pinned", **fields_of(done))
    return say(context, entry_json(done) | {"undo": undo}, f"{want.name}: {outcome}. Undo with: {undo}")


def _bring_up(context: Context, service: str) -> None:
    desired = context.desired(context.applied_fleet)
    rule = desired.services[service].rule
    with locks.table(context.paths.table_lock):
        state = context.plane.observe()
        if state.home and state.services.get(service) != rule:
            context.plane.run((SetService(rule),))
    if state.home:
        point_slots(context, service)


def _note(context: Context, entry: HistoryEntry) -> HistoryEntry:
    """Write ``entry`` into the history with the next number."""
    done = entry

    def noted(journal: Journal) -> Journal:
        nonlocal done
        done = replace(entry, number=journal.next_number())
        return journal.noting(done)

    context.store.update(noted)
    return done
