"""What the kernel's tables hold, as the plane's state: read from a listing, judged by the memory of what was set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from portfleet.core import changes as c
from portfleet.core.access import Access
from portfleet.core.model import Affinity
from portfleet.dataplane.nft import listing
from portfleet.dataplane.nft.base import FIXED
from portfleet.dataplane.nft.book import Book
from portfleet.dataplane.nft.lookup import Lookup
from portfleet.dataplane.nft.memory import Memory
from portfleet.dataplane.nft.reader import NftReader
from portfleet.dataplane.nft.sides import SideTables, side_tables


def observe(reader: NftReader, lookup: Lookup, memory: Memory) -> c.PlaneState:
    """Return what the kernel's tables hold; a rule that ``memory`` does not know in this form is `None`: drift."""
    chains = reader.chains()
    if not chains and not reader.exists():
        return c.PlaneState()
    # Of an instance or a service that is gone, a chain may be left to which others' old rules lead.
    now = {name: digest for name, digest in listing.digests(chains).items() if name in chains}
    same = {name for name, digest in now.items() if memory.same(name, digest)}
    fresh = {name for name in same if memory.current(name)}
    memory.renew({name: now[name] for name in fresh})
    services: dict[str, c.ServiceRule | None] = {}
    instances: dict[str, c.InstanceRule | None] = {}
    for name in now.keys() - FIXED:
        rule = memory.rule(name) if name in fresh else None
        if name.startswith("service-"):
            services[name.removeprefix("service-")] = rule if isinstance(rule, c.ServiceRule) else None
        else:
            instances[name] = rule if isinstance(rule, c.InstanceRule) else None
    maps = reader.maps()
    book = lookup.book_of(services, maps)
    astray = _astray(services, instances, book)
    found = lookup.listens()
    listened = {int.from_bytes(element.key[:2], "big") for element in reader.elements("listened")}
    drift = {name.removeprefix("service-") for name in now if name not in same and name not in FIXED}
    strays = book.stray_limits or book.stray_remotes or listened != {listen.port for listen in found}
    fixed = same >= FIXED and not strays
    return c.PlaneState(
        fleet=c.SetFleet(listing.home_of(chains), listing.ranges(reader.elements("ports"))),
        services={name: None if name in astray else rule for name, rule in services.items()},
        instances={name: None if name in astray else rule for name, rule in instances.items()},
        slots=book.slots,
        pins={name: found.pins for name, found in book.sides.items() if found.pins},
        access={name: who for name in services if (who := lookup.access(name, maps)) != Access()},
        unsettled=frozenset(name for name, rule in services.items() if rule and not _settled(rule, book)),
        listens=c.join_families(found),
        stale=frozenset({""} if fixed and not fresh >= FIXED else set()),
        drift=frozenset(drift | astray | ({""} if not fixed else set())),
    )


def recovered(state: c.PlaneState, reader: NftReader, lookup: Lookup) -> c.PlaneState:
    """Return ``state`` with the rules that can be read back out of the kernel's own listing of them."""
    chains = reader.chains()
    services, instances = {}, {}
    for name in state.services:
        found = listing.seed_and_slots(chains[f"service-{name}"])
        services[name] = c.ServiceRule(name, Affinity("source"), *found) if found else None
    numbers = {name: number for service in services for number, name in lookup.numbers(service).items()}
    for name in state.instances:
        instances[name] = listing.instance_rule(name, numbers.get(name), chains[name])
    return replace(state, services=services, instances=instances)


def _astray(
    services: Mapping[str, c.ServiceRule | None], instances: Mapping[str, c.InstanceRule | None], book: Book
) -> set[str]:
    """Return instances to which not just their own number leads, and services with numbers that lead to none of theirs.

    An instance is astray too if it is counted, or given a source address, otherwise than its rule says, or diverted.
    """
    leading: dict[str, list[int]] = {}
    limits: dict[str, list[int]] = {}
    for port, name in book.limits.items():
        limits.setdefault(name, []).append(port)
    for leads in book.numbers.values():
        for number, name in leads.items():
            leading.setdefault(name, []).append(number)
    found = {service for service in services if any(name not in instances for name in book.numbers[service].values())}
    for service, diverted in book.diverted.items():
        found.update(name for number, name in book.numbers[service].items() if number in diverted)
        if diverted.keys() - book.numbers[service].keys():
            found.add(service)
    for name, rule in instances.items():
        if rule is not None:
            limited = limits.get(name, []) == [rule.port] * bool(rule.limit)
            sourced = rule.remote is None or book.remotes.get(rule.remote, "") == rule.snat
            if leading.get(name) != [rule.number] or not limited or not sourced:
                found.add(name)
    return found


def _settled(rule: c.ServiceRule, book: Book) -> bool:
    """Return whether what stands beside a service's slots follows from them."""
    if rule.plain:
        return True
    now = book.sides[rule.name]
    return side_tables(c.Route(rule, book.slots[rule.name], now.pins), now) == _padded(now, rule.tries)


def _padded(now: SideTables, tries: int) -> SideTables:
    return replace(now, overflow=now.overflow + (None,) * (tries - len(now.overflow)))
