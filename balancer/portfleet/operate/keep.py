"""Ends idle colours whose time to be kept for a rollback is up."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from portfleet import journal_file
from portfleet.clock import now
from portfleet.context import Context
from portfleet.execute import Executor
from portfleet.journal import Journal
from portfleet.model import Colour, other
from portfleet.paths import Paths
from portfleet.watch.log import Log


async def end_expired(paths: Paths, log: Log) -> None:
    """Stop the processes of every idle colour that is kept no longer; its release stays known for a rollback."""
    journal = journal_file.read(paths.journal)
    for name, record in (journal.services if journal else {}).items():
        colour = other(record.live)
        idle = record.colours.get(colour)
        busy = journal is not None and journal.running(name) is not None
        if idle is None or idle.stopped or busy or idle.keep_until is None or idle.keep_until > now():
            continue
        # The journal first: the watcher starts again what the journal wants.
        journal_file.update(paths.journal, partial(_stopped, service=name, colour=colour))
        await asyncio.to_thread(_stop, paths, name, colour)
        log("stopped-idle-colour", service=name, colour=colour, release=idle.release, reason="kept long enough")


def _stopped(journal: Journal, *, service: str, colour: Colour) -> Journal:
    record = journal.services[service]
    colours = {**record.colours, colour: replace(record.colours[colour], stopped=True, keep_until=None)}
    return journal.with_service(service, replace(record, colours=colours))


def _stop(paths: Paths, service: str, colour: Colour) -> None:
    context = Context(paths)
    desired = context.desired(context.applied_fleet)
    if service in desired.services:
        names = [want.name for want in desired.services[service].instances if want.instance.colour == colour]
        Executor(desired, context.kernel, context.supervisor, paths, say=lambda _: None).end(names)
