"""What may stand at a place of the command line, by the metavar of its argument: services, instances, releases, …"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from portfleet.core.journal import Journal
from portfleet.core.model import COLOURS, Fleet, Instance, Service
from portfleet.core.program import WATCHER

#: A candidate and a few words on it.
Candidate = tuple[str, str]


def candidates(kind: str, before: Sequence[str], fleet: Fleet, journal: Journal) -> Iterator[Candidate]:
    """Yield what an argument called ``kind`` may be, behind the arguments ``before``."""
    name = before[0].partition("/")[0] if before else ""
    service = fleet.services.get(name)
    match kind:
        case "SERVICE":
            yield from _services(fleet)
        case "SERVICE/INSTANCE":
            yield from _instances(fleet)
        case "SERVICE[/INSTANCE]":
            yield from _services(fleet)
            yield from _instances(fleet)
        case "LOG":
            yield from _services(fleet)
            yield from _instances(fleet)
            yield from ((WATCHER, "the watcher"), ("supervisord", "supervisord itself"))
        case "INSTANCE" | "TO" if service:
            yield from ((one, service.name) for one in _names(service) if f"{name}/{one}" not in before)
            if kind == "TO":
                yield from ((str(remote), "another box") for remote in service.remote)
        case "RELEASE" if service:
            yield from _releases(service, journal)
        case "OPERATION":
            running = ((str(one.number), f"{one.verb} {one.service}, running") for one in journal.operations)
            done = ((str(one.number), f"{one.words}, {one.at}") for one in reversed(journal.history)
                    if name in ("", one.service))  # fmt: skip
            yield from (*running, *done)
        case "ADDRESS[/PREFIX]" if name in journal.services:
            record = journal.services[name]
            yield from ((network, f"pinned to {member}") for network, member in record.pins.items())
            yield from ((network, "denied") for network in record.denied)


def _services(fleet: Fleet) -> Iterator[Candidate]:
    return ((name, f"listens on {' '.join(map(str, one.listen))}") for name, one in fleet.services.items())


def _names(service: Service) -> Iterator[str]:
    numbers = range(1, service.instances + 1)
    return (Instance(service.name, colour, number).name for colour in COLOURS for number in numbers)


def _instances(fleet: Fleet) -> Iterator[Candidate]:
    for service in fleet.services.values():
        yield from ((f"{service.name}/{name}", "instance") for name in _names(service))


def _releases(service: Service, journal: Journal) -> Iterator[Candidate]:
    """Yield the directories below `releases`, and the releases that were live."""
    found: dict[str, str] = {}
    if service.releases:
        try:
            with os.scandir(service.releases) as entries:
                found |= {entry.name: f"in {service.releases}" for entry in entries if entry.is_dir()}
        except OSError:
            pass  # not there yet, or not this user's to read
    known = [one.release for one in journal.history if one.service == service.name]
    if record := journal.services.get(service.name):
        known += [colour.release for colour in record.colours.values()]
    found |= {release: "was live" for release in known if release}
    yield from sorted(found.items())
