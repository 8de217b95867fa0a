"""A journal rebuilt from what runs, for when the file is lost or damaged: kernel table first, then supervisord."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from portfleet.core.access import Access
from portfleet.core.changes import PlaneState
from portfleet.core.journal import Journal
from portfleet.core.model import COLOURS, Colour, Fleet, Service, parse_instance, seed_of
from portfleet.core.records import ColourRecord, Denied, ServiceRecord


def rebuild(fleet: Fleet, state: PlaneState, programs: Iterable[str]) -> Journal:
    """Return the journal that explains ``state`` (as ``Kernel.recover`` gives it) and the running ``programs``.

    What operators asked for (drained, maintenance) is lost; the release is taken from the config.
    """
    running = list(programs)
    journal = Journal()
    for service in fleet.services.values():
        record = _record(service, state, running)
        if record:
            journal = journal.with_service(service.name, record)
    return journal


def _record(service: Service, state: PlaneState, programs: list[str]) -> ServiceRecord | None:
    rule, slots = state.services.get(service.name), state.slots.get(service.name, ())
    numbers = {
        name: found.number
        for name, found in state.instances.items()
        if found and (instance := parse_instance(name)) and instance.service == service.name
    }
    if not any(slots) and not numbers:
        return None
    owners = [parse_instance(name) if name else None for name in slots]
    members = tuple(owner.member if owner else None for owner in owners)
    up = [instance for name in programs if (instance := parse_instance(name)) and instance.service == service.name]
    votes = Counter(owner.colour for owner in owners if owner and owner.colour)
    votes += Counter(instance.colour for instance in up if instance.colour)
    live: Colour = max(COLOURS, key=lambda colour: votes[colour])
    colours = {colour: ColourRecord(release=service.release) for colour in COLOURS if votes[colour] or colour == live}
    return ServiceRecord(
        live,
        rule.seed if rule else seed_of(service.name),  # in turn and at random there is none in the rules
        members if len(members) == service.slots else (),
        numbers=numbers,
        colours=colours,
        config_release=service.release,
        denied=_denied(service, state),
    )


def _denied(service: Service, state: PlaneState) -> dict[str, Denied]:
    """Return the denials of ``state`` that are not the config's; since when and why is lost."""
    ranges = state.access.get(service.name, Access()).deny
    found = {network: one.until for one in ranges for network in one.networks()}
    return {net: Denied("", "", until=until) for net, until in found.items() if net not in service.deny}
