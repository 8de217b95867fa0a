"""Ends idle colours whose time to be kept for a rollback is up, never one that still has connections."""

from __future__ import annotations

import asyncio
from functools import partial

from portfleet.apply.observe import observe
from portfleet.apply.programs import EMPTIED, Programs
from portfleet.core.desired import Desired
from portfleet.core.journal import Journal
from portfleet.core.model import Colour, other
from portfleet.operations.world import World
from portfleet.store.clock import now


async def end_expired(world: World) -> None:
    """Stop the processes of every idle colour that is kept no longer; its release stays known for a rollback."""
    journal = world.store.read()
    for name, colour in _expired(journal) if journal else ():
        if left := await asyncio.to_thread(_connections, world, world.applied.desired(), name, colour):
            reason = f"it has {left} connections"
            world.log.once("kept-longer", about=name, service=name, colour=colour, reason=reason)
            continue
        # The journal first: the watcher starts again what the journal wants.
        world.store.update(partial(_stopped, service=name, colour=colour))
        await asyncio.to_thread(_stop, world, world.applied.desired(), name, colour)
        release = journal.services[name].colours[colour].release if journal else None
        world.log("stopped-idle-colour", service=name, colour=colour, release=release, reason="kept long enough")


def _expired(journal: Journal) -> list[tuple[str, Colour]]:
    """Return the idle colours, each with its service, whose time is up."""
    found: list[tuple[str, Colour]] = []
    for name, record in journal.services.items():
        colour = other(record.live)
        idle = record.colours.get(colour)
        if idle is None or idle.stopped or idle.keep_until is None or journal.running(name):
            continue
        if idle.keep_until <= now():
            found.append((name, colour))
    return found


def _connections(world: World, desired: Desired, service: str, colour: Colour) -> int:
    if service not in desired.services:
        return 0
    observed = observe(desired, plane=world.plane, supervisor=world.supervisor, paths=world.paths, probe=False)
    return sum(observed.seen(want.name).connections or 0 for want in desired.services[service].of(colour))


def _stopped(journal: Journal, *, service: str, colour: Colour) -> Journal:
    record = journal.services[service]
    idle = record.colours.get(colour)
    if record.live == colour or idle is None or journal.running(service):
        return journal
    return journal.with_service(service, record.with_colour_stopped(colour))


def _stop(world: World, desired: Desired, service: str, colour: Colour) -> None:
    if service in desired.services:
        names = [want.name for want in desired.services[service].of(colour) if want.program is None]
        programs = Programs(desired, world.supervisor, world.paths)
        programs.run(programs.ending(names, EMPTIED))
