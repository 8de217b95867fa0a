"""Reads what the kernel has of instances and services, as the values that transactions are made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from portfleet.core import changes as c
from portfleet.core.access import Access
from portfleet.core.model import Listen, parse_instance
from portfleet.core.slots import Table
from portfleet.dataplane.nft import access, listing
from portfleet.dataplane.nft.book import Book, service_of
from portfleet.dataplane.nft.memory import Memory
from portfleet.dataplane.nft.reader import NftReader
from portfleet.dataplane.nft.sides import SideTables, Which

_LISTENS = ("services4", "services6", "local4", "local6")


class Lookup:
    """Looks into the table with ``reader``; ``memory`` has the rules that were set. Methods raise PortfleetError."""

    def __init__(self, reader: NftReader, memory: Memory) -> None:
        self._reader, self._memory = reader, memory

    def book(self, transaction: c.Transaction, slots: Callable[[str], Table]) -> Book:
        """Return what the kernel has, as far as ``transaction`` needs it; ``slots`` gives those of a service."""
        services = {service for change in transaction if (service := service_of(change))}
        if any(isinstance(change, c.SetFleet) for change in transaction):
            services |= _numbered(self._reader.maps())
        rules = {change.rule.name: change.rule for change in transaction if isinstance(change, c.Route)}
        numbers = {service: self.numbers(service) for service in services}
        book = Book(
            numbers=numbers,
            slots={name: slots(name) for name in rules},
            sides={name: self._sides(name, _side_maps(rule), numbers.get(name, {})) for name, rule in rules.items()},
            diverted={name: self.diverted(name) for name in services & _setting(transaction)},
            now=time.time(),
        )
        if any(isinstance(change, c.SetFleet | c.SetListens) for change in transaction):
            book.listens = set(self.listens())
        if any(isinstance(change, c.SetFleet | c.SetInstance | c.DropInstance) for change in transaction):
            self._add_guarded(book)
        return book

    def book_of(self, services: Collection[str], maps: Collection[str]) -> Book:
        """Return everything the kernel has of ``services``; ``maps`` are the names of all maps and sets."""
        numbers = {name: self.numbers(name) for name in {*services, *_numbered(maps)}}
        book = Book(
            numbers=numbers,
            diverted={name: self.diverted(name) for name in services},
            slots={name: self.table("slots", name, numbers[name]) for name in services},
            sides={name: self._sides(name, maps, numbers[name]) for name in services},
        )
        self._add_guarded(book)
        return book

    def _add_guarded(self, book: Book) -> None:
        """Add to ``book`` whose connections the kernel counts, and which get another source address."""
        limits = self._reader.elements("limits")
        book.limits = {int.from_bytes(e.key[:2], "big"): (e.chain or "?").removeprefix("cap_") for e in limits}
        rules = {name: self._memory.rule(name) for name in book.limits.values()}
        book.kept = {
            port
            for port, name in book.limits.items()
            if isinstance(rule := rules[name], c.InstanceRule) and rule.port == port
        }
        for family in (4, 6):
            for name in (f"remotes{family}", f"sources{family}"):
                book.remotes.update(listing.remotes(self._reader.elements(name), six=family == 6))
        for name in self._reader.chain_names() if book.remotes else ():
            rule = self._memory.rule(name) if _is_remote(name) else None
            if isinstance(rule, c.InstanceRule) and rule.remote is not None:
                book.elsewhere[name] = (rule.remote, rule.snat)

    def listens(self) -> dict[Listen, str]:
        """Return {listen address of one family: service}."""
        return dict(pair for name in _LISTENS for pair in listing.listens(name, self._reader.elements(name)))

    def limited(self) -> list[c.InstanceRule]:
        """Return the rules of the instances whose limits the kernel keeps."""
        names = ((element.chain or "?").removeprefix("cap_") for element in self._reader.elements("limits"))
        return [rule for name in names if isinstance(rule := self._memory.rule(name), c.InstanceRule) and rule.limit]

    def numbers(self, service: str) -> dict[int, str]:
        """Return {number: instance} of a service."""
        return listing.numbers(self._reader.elements(f"instances-{service}"))

    def diverted(self, service: str) -> dict[int, int]:
        """Return {number: the one that its new connections are led to} of a service."""
        return self._reader.registers(f"diverted-{service}")

    def access(self, service: str, maps: Collection[str]) -> Access:
        """Return who may connect to a service; of ``maps`` those are read that it has.

        The kernel compares the name that is asked for with those of all maps, one after the other.
        """
        names = {kind: f"{kind}-{service}" for kind in access.KINDS}
        return access.read({kind: self._reader.elements(name) if name in maps else [] for kind, name in names.items()})

    def table(self, which: Which, service: str, numbers: dict[int, str]) -> Table:
        """Return one of a service's tables, by the instances to which ``numbers`` lead."""
        slots = self._reader.registers(f"{which}-{service}")
        names: dict[int | None, str | None] = {number: named(number, numbers) for number in set(slots.values())}
        return tuple(map(names.get, map(slots.get, range(max(slots) + 1)))) if slots else ()

    def _sides(self, service: str, maps: Iterable[str], numbers: dict[int, str]) -> SideTables:
        there = {name.partition("-")[0] for name in maps if name.partition("-")[2] == service}
        if not there & {"local", "overflow", "taking", "pins4"}:
            return SideTables()
        tried = {listing.number(e.key): e.chain or "?" for e in self._reader.elements(f"overflow-{service}")}
        taking = self._reader.elements(f"taking-{service}") if "taking" in there else []
        last = max(tried, default=-1)
        order = tuple(tried[n].removeprefix("try_") if n in tried else None for n in range(last + 1))
        return SideTables(
            local=self.table("local", service, numbers) if "local" in there else (),
            overflow=order if "overflow" in there else (),
            tried=self._tried(numbers.values()) if "overflow" in there else frozenset(),
            taking=frozenset(named(listing.number(element.key), numbers) for element in taking),
            pins=self._pins(service, numbers) if "pins4" in there else {},
        )

    def _tried(self, instances: Iterable[str]) -> frozenset[str]:
        """Return those of ``instances`` that have a chain for what is too much for others."""
        rules = [self._memory.rule(name) for name in instances]
        return frozenset(rule.name for rule in rules if isinstance(rule, c.InstanceRule) and rule.overflows)

    def _pins(self, service: str, numbers: dict[int, str]) -> dict[str, str]:
        found = [(family, self._reader.elements(f"pins{family}-{service}")) for family in (4, 6)]
        pairs = (pair for family, elements in found for pair in listing.networks(elements, six=family == 6))
        return {network: named(number, numbers) for network, number in pairs}


def _numbered(maps: Iterable[str]) -> set[str]:
    """Return the services that have numbers, also those of which only instances are left."""
    return {name.removeprefix("instances-") for name in maps if name.startswith("instances-")}


def _setting(transaction: c.Transaction) -> set[str]:
    """Return the services of which ``transaction`` may begin or end diversions."""
    others = (change for change in transaction if not isinstance(change, c.Route))
    return {service for change in others if (service := service_of(change))}


def _is_remote(name: str) -> bool:
    instance = parse_instance(name)
    return instance is not None and instance.colour is None


def _side_maps(rule: c.ServiceRule) -> list[str]:
    """Return one map of each table that stands beside the slots of a service with ``rule``."""
    has = [f"local-{rule.name}"] * rule.remote + [f"overflow-{rule.name}"] * bool(rule.tries)
    return has + [f"taking-{rule.name}"] * bool(rule.sticky or rule.pins) + [f"pins4-{rule.name}"] * rule.pins


def named(number: int, numbers: dict[int, str]) -> str:
    """Return the instance to which a number leads; "?" and the number for one that leads nowhere."""
    return numbers.get(number, f"?{number}")
