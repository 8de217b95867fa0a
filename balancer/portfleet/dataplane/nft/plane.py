"""nftables as the data plane: text in through libnftables, state out through nfnetlink.

One transaction is one batch on one netlink socket: the kernel takes all of it or nothing, and packets see the state
before or the state after; `parts` is for what is too long for that. What we set is remembered beside the kernel's form
of it (``run/rules.json``), so that a later difference is a hand edit; without that file rules are simply set again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, reduce
from operator import or_
from pathlib import Path

from portfleet.core import changes as c
from portfleet.core.errors import Exit, PortfleetError, Problem
from portfleet.core.model import Affinity, Fleet, parse_instance
from portfleet.core.needs import Needs
from portfleet.core.program import Program
from portfleet.core.slots import Table
from portfleet.dataplane.interface import Address, Guardian, Traits
from portfleet.dataplane.nft import leftovers, listing
from portfleet.dataplane.nft import text as nft_text
from portfleet.dataplane.nft.affinity import slot_for, source_of
from portfleet.dataplane.nft.cached import SlotCache
from portfleet.dataplane.nft.connections import NftConnections
from portfleet.dataplane.nft.context import InUse, NftContext, TooLong
from portfleet.dataplane.nft.elements import SetBase, SideTables, Which, local_table, side_tables
from portfleet.dataplane.nft.memory import Memory, Setting, writer
from portfleet.dataplane.nft.parts import halves
from portfleet.dataplane.nft.reader import NftReader
from portfleet.doctor.finding import Finding

NAME = "portfleet"
TRAITS = Traits(
    name="nftables",
    words="the kernel's table",
    requires="Debian 12 and later, or Linux 5.10 with nft 1.0.2, have it all",
    place="this network namespace's table inet portfleet",
    listen="wildcard",
    families=None,
    sees_clients=True,
    guards_ports=True,
    survives=True,
    own_clients_apart=True,
    services_at_once=8,  # of 32, libnftables takes 180 MB; of 8 it takes 68
    slots_at_once=16_384,
)
_LISTENS = ("services4", "services6", "local4", "local6")
_FIXED = frozenset({"prerouting", "output", "postrouting", "guard", "admit"})
Rule = c.ServiceRule | c.InstanceRule


class NftPlane:
    """nftables (see `DataPlane`). ``memory`` is the file that remembers what was set."""

    traits = TRAITS

    def __init__(self, memory: Path) -> None:
        self._memory = Memory(memory)
        self._reader = NftReader(NAME)
        self._printed = nft_text.Book()
        self._cache: SlotCache | None = None
        self.connections = NftConnections(self._reader)

    @cached_property
    def _nft(self) -> NftContext:
        return NftContext()

    def slot_of(self, affinity: Affinity, address: Address, port: int | None, *, seed: int, slots: int) -> int | None:
        return slot_for(affinity, address, port, seed=seed, slots=slots)

    def table_for_own_clients(self, table: Table, local: Collection[str]) -> Table:
        return local_table(table, local)

    def observe(self) -> c.PlaneState:
        if self._cache is None:
            return self._observe()
        with self._cache.reading() as note:
            state = self._observe()
            note(state.slots)
        return state

    def _observe(self) -> c.PlaneState:
        chains = self._reader.chains()
        if not chains and not self._reader.exists():
            return c.PlaneState()
        # Of an instance or a service that is gone, a chain may be left to which others' old rules lead.
        now = {name: digest for name, digest in listing.digests(chains).items() if name in chains}
        same = {name for name, digest in now.items() if self._memory.same(name, digest)}
        fresh = {name for name in same if self._memory.current(name)}
        self._memory.renew({name: now[name] for name in fresh})
        services: dict[str, c.ServiceRule | None] = {}
        instances: dict[str, c.InstanceRule | None] = {}
        for name in now.keys() - _FIXED:
            rule = self._memory.rule(name) if name in fresh else None
            if name.startswith("service-"):
                services[name.removeprefix("service-")] = rule if isinstance(rule, c.ServiceRule) else None
            else:
                instances[name] = rule if isinstance(rule, c.InstanceRule) else None
        book = self._book_of(services)
        astray = _astray(services, instances, book)
        found = dict(pair for name in _LISTENS for pair in listing.listens(name, self._reader.elements(name)))
        drift = {name.removeprefix("service-") for name in now if name not in same and name not in _FIXED}
        fixed = same >= _FIXED and not _strays(book)
        return c.PlaneState(
            fleet=c.SetFleet(listing.home_of(chains), listing.ranges(self._reader.elements("ports"))),
            services={name: None if name in astray else rule for name, rule in services.items()},
            instances={name: None if name in astray else rule for name, rule in instances.items()},
            slots=book.slots,
            pins={name: found.pins for name, found in book.sides.items() if found.pins},
            unsettled=frozenset(name for name, rule in services.items() if rule and not _settled(rule, book)),
            listens=c.join_families(found),
            stale=frozenset({""} if fixed and not fresh >= _FIXED else set()),
            drift=frozenset(drift | astray | ({""} if not fixed else set())),
        )

    def recover(self) -> c.PlaneState:
        state, chains = self.observe(), self._reader.chains()
        services, instances = {}, {}
        for name in state.services:
            found = listing.seed_and_slots(chains[f"service-{name}"])
            services[name] = c.ServiceRule(name, Affinity("source"), *found) if found else None
        marks = {name: mark for service in services for mark, name in self._marks(service).items()}
        for name in state.instances:
            instances[name] = listing.instance_rule(name, marks.get(name), chains[name])
        return replace(state, services=services, instances=instances)

    def read_slots(self, service: str) -> Table:
        return self._cache.read(service, self._read_slots) if self._cache else self._read_slots(service)

    def remembered(self, rule: c.ServiceRule, address: Address) -> str | None:
        if rule.sticky is None:
            return None
        name = f"sticky{address.version}-{rule.sticky.size}-{rule.name}"
        found = self._reader.element(name, source_of(rule.affinity, address))
        return _named(listing.number(found.data), self._marks(rule.name)) if found and found.data else None

    def check(self, transaction: c.Transaction) -> None:
        self._refuse_used(transaction)
        self._nft.do(nft_text.text(transaction, self._book(transaction)), dry=True)

    def run(self, transaction: c.Transaction) -> None:
        if self._cache is None:
            self._run(transaction)
            return
        with self._cache.changing(lambda: self._nft.done) as follow:
            self._run(transaction)
            follow({change.rule.name: change.table for change in transaction if isinstance(change, c.Route)})

    def _run(self, transaction: c.Transaction) -> None:
        try:
            self._commit(transaction)
        except TooLong:
            if (parts := halves(transaction, self.read_slots)) is None:
                raise
            for part in parts:
                self._run(part)

    def _commit(self, transaction: c.Transaction) -> None:
        self._refuse_used(transaction)
        book = self._book(transaction)
        made = _made(transaction)
        before = [rule for name in made if (rule := self._memory.rule(name))]
        first = nft_text.unmarked(transaction, book)
        script = nft_text.text(transaction, book)
        if first:
            self._nft.do(script, dry=True)
            self._nft.do(first)
            script = nft_text.text(transaction, self._book(transaction))
        if script:
            self._nft.do(script)
        self._sweep(transaction, before, {n: set_.rule for n, set_ in made.items() if not isinstance(set_, SetBase)})
        if made:
            self._memory.note(made, listing.digests(self._reader.chains(*_chains(made))))

    def text(self, transaction: c.Transaction) -> str:
        known, fresh = self._printed, self._book(transaction)
        for service, marks in fresh.marks.items():
            known.marks[service] = marks | known.marks.get(service, {})
        known.slots, known.sides = fresh.slots | known.slots, fresh.sides | known.sides
        known.limits, known.remotes = fresh.limits | known.limits, fresh.remotes | known.remotes
        return nft_text.text(transaction, known)

    def missing(self) -> list[str]:
        from portfleet.dataplane.nft import capabilities  # not for `status`

        return capabilities.missing()

    def problems(self, fleet: Fleet) -> list[Problem]:
        from portfleet.dataplane.nft import capabilities

        return capabilities.forwarding(fleet)

    def programs(self, fleet: Fleet) -> Mapping[str, Program]:  # noqa: ARG002 (the kernel needs no process)
        return {}

    def findings(self, fleet: Fleet, needs: Needs) -> list[Finding]:
        from portfleet.dataplane.nft.doctor import examine

        return list(examine(fleet, needs))

    def guardian(self) -> Guardian:
        from portfleet.dataplane.nft.guardian import NftGuardian

        writer()  # of the files as they are now: they may be replaced under a watcher
        guardian = NftGuardian()
        self._cache = guardian.cache
        return guardian

    def _book(self, transaction: c.Transaction) -> nft_text.Book:
        """Return what the kernel has, as far as ``transaction`` needs it."""
        services = {service for change in transaction if (service := nft_text.service_of(change))}
        if any(isinstance(change, c.SetFleet) for change in transaction):
            services |= _marked(self._reader.maps())
        rules = {change.rule.name: change.rule for change in transaction if isinstance(change, c.Route)}
        marks = {service: self._marks(service) for service in services}
        touched = any(isinstance(change, c.SetFleet | c.SetInstance | c.DropInstance) for change in transaction)
        limits = self._limits() if touched else {}
        return nft_text.Book(
            marks=marks,
            limits=limits,
            kept=self._kept(limits),
            remotes=self._remotes() if touched else set(),
            slots={name: self.read_slots(name) for name in rules},
            sides={name: self._sides(name, _side_maps(rule), marks.get(name, {})) for name, rule in rules.items()},
        )

    def _book_of(self, services: Collection[str]) -> nft_text.Book:
        """Return everything the kernel has of ``services``."""
        maps = self._reader.maps()
        marks = {name: self._marks(name) for name in {*services, *_marked(maps)}}
        limits = self._limits()
        return nft_text.Book(
            marks=marks,
            limits=limits,
            kept=self._kept(limits),
            remotes=self._remotes(),
            slots={name: self._table("slots", name, marks[name]) for name in services},
            sides={name: self._sides(name, maps, marks[name]) for name in services},
        )

    def _read_slots(self, service: str) -> Table:
        return self._table("slots", service, self._marks(service))

    def _limits(self) -> dict[int, str]:
        found = self._reader.elements("limits")
        return {listing.number(element.key): (element.chain or "?").removeprefix("cap_") for element in found}

    def _kept(self, limits: Mapping[int, str]) -> set[int]:
        """Return the marks by whose own instances' rules they are counted, also if those are all that is left."""
        rules = {name: self._memory.rule(name) for name in limits.values()}
        numbers = {name: rule.number for name, rule in rules.items() if isinstance(rule, c.InstanceRule)}
        return {mark for mark, name in limits.items() if numbers.get(name) == mark}

    def _remotes(self) -> set[int]:
        return {listing.number(element.key) for element in self._reader.elements("remotes")}

    def _marks(self, service: str) -> dict[int, str]:
        return listing.marks(self._reader.elements(f"instances-{service}"))

    def _table(self, which: Which, service: str, marks: dict[int, str]) -> Table:
        slots = {slot: _named(mark, marks) for slot, mark in self._reader.registers(f"{which}-{service}").items()}
        return tuple(slots.get(slot) for slot in range(max(slots) + 1)) if slots else ()

    def _sides(self, service: str, maps: Iterable[str], marks: dict[int, str]) -> SideTables:
        there = {name.partition("-")[0] for name in maps if name.partition("-")[2] == service}
        if not there & {"local", "overflow", "taking", "pins4"}:
            return SideTables()
        tried = {listing.number(e.key): e.chain or "?" for e in self._reader.elements(f"overflow-{service}")}
        taking = self._reader.elements(f"taking-{service}") if "taking" in there else []
        last = max(tried, default=-1)
        order = tuple(tried[n].removeprefix("try_") if n in tried else None for n in range(last + 1))
        return SideTables(
            local=self._table("local", service, marks) if "local" in there else (),
            overflow=order if "overflow" in there else (),
            taking=frozenset(_named(listing.number(element.key), marks) for element in taking),
            pins=self._pins(service, marks) if "pins4" in there else {},
        )

    def _pins(self, service: str, marks: dict[int, str]) -> dict[str, str]:
        found = [(family, self._reader.elements(f"pins{family}-{service}")) for family in (4, 6)]
        pairs = (pair for family, elements in found for pair in listing.networks(elements, six=family == 6))
        return {network: _named(mark, marks) for network, mark in pairs}

    def _refuse_used(self, transaction: c.Transaction) -> None:
        """Slots hold marks, so the kernel itself would let an instance go that slots still point at."""
        gone = {change.name for change in transaction if isinstance(change, c.DropService)}
        for change in transaction:
            instance = parse_instance(change.name) if isinstance(change, c.DropInstance) else None
            if instance and instance.service not in gone and instance.name in self.read_slots(instance.service):
                raise PortfleetError(
                    f"cannot forget {instance.name}: slots of {instance.service} point at it",
                    hint="portfleet plan",
                    code=Exit.KERNEL,
                )

    def _sweep(self, transaction: c.Transaction, before: Iterable[Rule], after: Mapping[str, Rule]) -> None:
        """Remove what rules needed before ``transaction`` and need no longer; ``after`` are those it set, by chain."""
        old = {part for rule in before for part in leftovers.parts_of(rule)}
        services = {leftovers.service_of(rule) for rule in before} if old else set()
        if old <= {part for rule in after.values() for part in leftovers.parts_of(rule)}:
            services = set()
        services |= {change.name for change in transaction if isinstance(change, c.DropService)}
        dropped = [change.name for change in transaction if isinstance(change, c.DropInstance)]
        services |= {service for name in dropped if (service := nft_text.service_of_instance(name))}
        if not services:
            return
        chains = self._reader.chains()
        there, left = leftovers.by_service(self._reader.maps(), chains), {}
        for service in sorted(services):
            maps, own = there.get(service, (set(), set()))
            rules = [rule for chain in own if (rule := after.get(chain) or self._memory.rule(chain))]
            left[service] = leftovers.of_service(service, maps, own, rules)
        try:
            self._remove(left.values())
        except InUse:
            for one in left.values():
                with suppress(InUse):  # later: the next change of that service looks again
                    self._remove([one])
        emptied = {listing.unit_of(chain) for one in left.values() for chain in one.emptied} & chains.keys()
        was, now = listing.digests(chains), listing.digests(self._reader.chains(*_chains(emptied)))
        self._memory.replace({name: now[name] for name in emptied & now.keys() if self._memory.same(name, was[name])})

    def _remove(self, left: Iterable[leftovers.Leftovers]) -> None:
        for script in leftovers.removal(reduce(or_, left)):
            self._nft.do(script)


def _astray(
    services: Mapping[str, c.ServiceRule | None], instances: Mapping[str, c.InstanceRule | None], book: nft_text.Book
) -> set[str]:
    """Return instances to which not just their own mark leads, and services with marks that lead to none of theirs.

    An instance is astray too if it is counted, or masqueraded, otherwise than its rule says.
    """
    leading: dict[str, list[int]] = {}
    for leads in book.marks.values():
        for mark, name in leads.items():
            leading.setdefault(name, []).append(mark)
    found = {service for service in services if any(name not in instances for name in book.marks[service].values())}
    for name, rule in instances.items():
        if rule is not None:
            limited, elsewhere = book.limits.get(rule.number) == name, rule.number in book.remotes
            if leading.get(name) != [rule.number] or limited != bool(rule.limit) or elsewhere != bool(rule.remote):
                found.add(name)
    return found


def _marked(maps: Iterable[str]) -> set[str]:
    """Return the services that have marks, also those of which only instances are left."""
    return {name.removeprefix("instances-") for name in maps if name.startswith("instances-")}


def _strays(book: nft_text.Book) -> bool:
    """Return whether marks that lead to no instance are counted or masqueraded."""
    marks = {mark for known in book.marks.values() for mark in known}
    return not (book.limits.keys() | book.remotes) <= marks | book.kept


def _settled(rule: c.ServiceRule, book: nft_text.Book) -> bool:
    """Return whether what stands beside a service's slots follows from them."""
    if rule.plain:
        return True
    now = book.sides[rule.name]
    return side_tables(c.Route(rule, book.slots[rule.name], now.pins), now) == _padded(now, rule.tries)


def _padded(now: SideTables, tries: int) -> SideTables:
    return replace(now, overflow=now.overflow + (None,) * (tries - len(now.overflow)))


def _side_maps(rule: c.ServiceRule) -> list[str]:
    """Return one map of each table that stands beside the slots of a service with ``rule``."""
    has = [f"local-{rule.name}"] * rule.remote + [f"overflow-{rule.name}"] * bool(rule.tries)
    return has + [f"taking-{rule.name}"] * bool(rule.sticky or rule.pins) + [f"pins4-{rule.name}"] * rule.pins


def _named(mark: int, marks: dict[int, str]) -> str:
    """Return the instance to which a mark leads; "?" and the number for one that leads nowhere."""
    return marks.get(mark, f"?{mark}")


def _made(transaction: c.Transaction) -> dict[str, Setting]:
    """Return the changes that set chains, by the unit they make."""
    made: dict[str, Setting] = {}
    for change in transaction:
        match change:
            case c.SetFleet(home):
                made |= dict.fromkeys(_FIXED, SetBase(home))
            case c.SetService(service):
                made[f"service-{service.name}"] = change
            case c.SetInstance(instance):
                made[instance.name] = change
            case _:
                pass
    return made


def _chains(units: Iterable[str]) -> list[str]:
    """Return the chains that units may have."""
    chains = list(units)
    for unit in units:
        if unit.startswith("service-"):
            name = unit.removeprefix("service-")
            chains += [f"local_{name}", f"overflow_{name}", f"full_{name}"]
        else:
            chains += [f"try_{unit}", f"cap_{unit}"]
    return chains
