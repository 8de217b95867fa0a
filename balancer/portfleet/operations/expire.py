"""Ends idle colours whose time to be kept for a rollback is up, never one that still has connections or slots."""

from __future__ import annotations

from functools import partial

from portfleet.apply.endings import EMPTIED
from portfleet.core.desired import DesiredInstance
from portfleet.core.journal import Journal
from portfleet.core.model import Colour, other
from portfleet.core.printable import quantity
from portfleet.operations.world import World


async def end_expired(world: World) -> None:
    """Stop the processes of every idle colour that is kept no longer; its release stays known for a rollback."""
    journal = world.store.read()
    for name, colour in _expired(journal, world.clock.now()) if journal else ():
        idle = _instances(world, name, colour)
        there = [want for want in idle if want.program is not None]
        counts = await world.daemons.connections(world.applied.fleet().services[name], there) if there else {}
        names, left = {want.name for want in idle}, sum(counts.values())
        slots = sum(owner in names for owner in world.ejector.table(name, anew=True))
        if left or slots:
            reason = f"it has {quantity(left, 'connection') if left else quantity(slots, 'slot')}"
            world.log.once("kept-longer", about=name, service=name, colour=colour, reason=reason)
            continue
        # The journal first: the watcher starts again what the journal wants.
        now = world.store.update(partial(_stopped, service=name, colour=colour)).services.get(name)
        stopped = now.colours.get(colour) if now else None
        if stopped is None or not stopped.stopped:
            continue  # an operation has begun meanwhile, or the service is gone
        programs = world.programs(world.applied.desired())
        await world.in_thread(programs.run, programs.ending([want.name for want in idle], EMPTIED))
        world.log(
            "stopped-idle-colour", service=name, colour=colour, release=stopped.release, reason="kept long enough"
        )


def _expired(journal: Journal, now: str) -> list[tuple[str, Colour]]:
    """Return the idle colours, each with its service, whose time is up."""
    found: list[tuple[str, Colour]] = []
    for name, record in journal.services.items():
        idle = record.colours.get(colour := other(record.live))
        if idle is None or idle.stopped or idle.keep_until is None or journal.running(name):
            continue
        if idle.keep_until <= now:
            found.append((name, colour))
    return found


def _instances(world: World, service: str, colour: Colour) -> tuple[DesiredInstance, ...]:
    """Return the instances of a colour; none of a service that is down or not in the config any more."""
    services = world.applied.desired().services
    return services[service].of(colour) if service in services else ()


def _stopped(journal: Journal, *, service: str, colour: Colour) -> Journal:
    record = journal.services.get(service)
    if record is None or record.live == colour or colour not in record.colours or journal.running(service):
        return journal
    return journal.with_service(service, record.with_colour_stopped(colour))
