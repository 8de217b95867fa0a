"""The history's entries of verbs that change the fleet as a whole; operations note themselves."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from portfleet.apply.context import Context
from portfleet.core.journal import HistoryEntry, JournalError
from portfleet.store import locks
from portfleet.store.clock import now


def note_done(context: Context, verb: str, words: str, outcome: str, *, ok: bool = True) -> None:
    """Note in the history what a verb has done; a damaged journal has none, and holds up nothing that was done."""
    entry = HistoryEntry(0, now(), locks.operator(), "", verb, words, outcome, ok=ok)
    with suppress(JournalError):
        context.store.update(lambda journal: journal.noting(replace(entry, number=journal.next_number())))
