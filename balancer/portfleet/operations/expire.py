"""Ends idle colours whose time to be kept for a rollback is up, never one that still has connections."""

from __future__ import annotations

import asyncio
from functools import partial

from portfleet.apply.context import Context
from portfleet.apply.execute import Executor
from portfleet.core.journal import Journal
from portfleet.core.model import Colour, other
from portfleet.core.paths import Paths
from portfleet.store import journal as journal_file
from portfleet.store.clock import now
from portfleet.store.log import Log


async def end_expired(paths: Paths, log: Log) -> None:
    """Stop the processes of every idle colour that is kept no longer; its release stays known for a rollback."""
    journal = journal_file.read(paths.journal)
    for name, record in (journal.services if journal else {}).items():
        colour = other(record.live)
        idle = record.colours.get(colour)
        busy = journal is not None and journal.running(name) is not None
        if idle is None or idle.stopped or busy or idle.keep_until is None or idle.keep_until > now():
            continue
        if left := await asyncio.to_thread(_connections, paths, name, colour):
            log.once("kept-longer", about=name, service=name, colour=colour, reason=f"it has {left} connections")
            continue
        # The journal first: the watcher starts again what the journal wants.
        journal_file.update(paths.journal, partial(_stopped, service=name, colour=colour))
        await asyncio.to_thread(_stop, paths, name, colour)
        log("stopped-idle-colour", service=name, colour=colour, release=idle.release, reason="kept long enough")


def _connections(paths: Paths, service: str, colour: Colour) -> int:
    context = Context(paths)
    desired = context.desired(context.applied_fleet)
    if service not in desired.services:
        return 0
    observed = context.observe(desired, probe=False)
    mine = [want for want in desired.services[service].instances if want.instance.colour == colour]
    return sum(observed.seen(want.name).connections or 0 for want in mine)


def _stopped(journal: Journal, *, service: str, colour: Colour) -> Journal:
    record = journal.services[service]
    idle = record.colours.get(colour)
    if record.live == colour or idle is None or journal.running(service):
        return journal
    return journal.with_service(service, record.with_colour_stopped(colour))


def _stop(paths: Paths, service: str, colour: Colour) -> None:
    context = Context(paths)
    desired = context.desired(context.applied_fleet)
    if service in desired.services:
        wanted = desired.services[service].instances
        names = [want.name for want in wanted if want.instance.colour == colour and want.program is None]
        Executor(desired, context.plane, context.supervisor, paths, say=lambda _: None).end(names)
