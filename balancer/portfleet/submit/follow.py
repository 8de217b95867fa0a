"""Following an operation to its end, and saying what came of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from portfleet.apply.context import Context
from portfleet.apply.overseers import watcher_of
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import HistoryEntry, Journal, entry_json
from portfleet.screen.bar import Bar
from portfleet.screen.output import fit

#: Seconds between two looks whether the watcher works, for the operator who waits for an operation.
_LOOK = 3.0


def ended(context: Context, number: int, *, undo: str = "") -> Exit:
    """Wait for the end of an operation, say what holds and what undoes it; return the exit code."""
    entry = follow(context, number)
    undoing = f". Undo with: {undo}" if entry.ok and undo else ". There is nothing to undo" if entry.ok else ""
    if entry.ok:
        return say(context, entry_json(entry) | {"undo": undo or None}, entry.outcome + undoing)
    if context.json:
        say(context, entry_json(entry), "")
    else:
        print(fit(f"portfleet: {entry.verb} {entry.service}: {entry.outcome}", file=sys.stderr), file=sys.stderr)
    return Exit(entry.code)


def follow(context: Context, number: int) -> HistoryEntry:
    """Wait until an operation has ended and give what came of it; shows a bar on a terminal.

    Interrupted, the operation goes on, which is said. Raises PortfleetError if there is no such operation.
    """
    bar, next_look, told = Bar(sys.stderr), time.monotonic() + _LOOK, False
    try:
        while True:
            journal = context.store.read() or Journal()
            running = journal.operation(number)
            if running is None:
                break
            bar.show(running)
            if time.monotonic() > next_look:
                told = _tell_unwatched(context, told=told)
                next_look = time.monotonic() + _LOOK
            time.sleep(0.05)
    except KeyboardInterrupt:
        raise PortfleetError(
            f"interrupted; operation {number} goes on",
            hint=f"portfleet history --follow {number}, or to undo it: portfleet cancel SERVICE",
        ) from None
    finally:
        bar.clear()
    found = [entry for entry in journal.history if entry.number == number]
    if not found:
        raise PortfleetError(f"there is no operation {number}", hint="see: portfleet history", code=Exit.USAGE)
    return found[-1]


def _tell_unwatched(context: Context, *, told: bool) -> bool:
    """Say once that no watcher works, and again when that was over in between; return whether none does."""
    watcher = watcher_of(context)
    if not watcher.works and not told:
        context.say(f"{watcher.trouble.words}; the operation goes on when it is back\nhint: {watcher.trouble.hint}")
    return not watcher.works


def already(context: Context, verb: str, service: str, words: str) -> Exit:
    """Say that nothing was to be done."""
    entry = {"verb": verb, "service": service, "ok": True, "outcome": "already", "words": words}
    return say(context, entry, words)


def say(context: Context, entry: Mapping[str, Any], words: str) -> Exit:
    """Print what holds now: ``words``, or ``entry`` where JSON was asked for."""
    print(json.dumps(entry) if context.json else fit(words))
    return Exit.DONE
