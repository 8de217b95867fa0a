"""nftables as the data plane: text in through libnftables, state out through nfnetlink.

One transaction is one batch on one netlink socket: the kernel takes all of it or nothing, and packets see the state
before or the state after; `parts` is for what is too long for that. What we set is remembered beside the kernel's form
of it (``run/rules.json``), so that a later difference is a hand edit; without that file rules are simply set again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import cached_property, reduce
from operator import or_
from pathlib import Path

from portfleet.core import changes as c
from portfleet.core.errors import Exit, PortfleetError, Problem
from portfleet.core.model import Affinity, Fleet, parse_instance
from portfleet.core.needs import Needs
from portfleet.core.observed import OwnProcess
from portfleet.core.program import Program
from portfleet.core.slots import Table
from portfleet.dataplane.interface import Address, Guardian, Traits
from portfleet.dataplane.nft import leftovers, listing, observation
from portfleet.dataplane.nft import text as nft_text
from portfleet.dataplane.nft.affinity import slot_for, source_of
from portfleet.dataplane.nft.book import Book, service_of_instance
from portfleet.dataplane.nft.cached import SlotCache
from portfleet.dataplane.nft.connections import NftConnections
from portfleet.dataplane.nft.context import InUse, NftContext, TooLong
from portfleet.dataplane.nft.elements import SetBase, local_table
from portfleet.dataplane.nft.lookup import Lookup, named
from portfleet.dataplane.nft.memory import Memory, Setting
from portfleet.dataplane.nft.observation import FIXED
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
Rule = c.ServiceRule | c.InstanceRule


class NftPlane:
    """nftables (see `DataPlane`). ``memory`` is the file that remembers what was set."""

    traits = TRAITS

    def __init__(self, memory: Path) -> None:
        self._memory = Memory(memory)
        self._reader = NftReader(NAME)
        self._lookup = Lookup(self._reader, self._memory)
        self._printed = Book()
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
            return observation.observe(self._reader, self._lookup, self._memory)
        with self._cache.reading() as note:
            state = observation.observe(self._reader, self._lookup, self._memory)
            note(state.slots)
        return state

    def recover(self) -> c.PlaneState:
        return observation.recovered(self.observe(), self._reader, self._lookup)

    def read_slots(self, service: str) -> Table:
        if self._cache is None:  # commands read them to decide, under the lock to be sure, and to write the difference
            self._cache = SlotCache(self._reader.generation)
        return self._cache.read(service, self._read_slots)

    def remembered(self, rule: c.ServiceRule, address: Address) -> str | None:
        if rule.sticky is None:
            return None
        name = f"sticky{address.version}-{rule.sticky.size}-{rule.name}"
        found = self._reader.element(name, source_of(rule.affinity, address))
        return named(listing.number(found.data), self._lookup.numbers(rule.name)) if found and found.data else None

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
        first = nft_text.detached(transaction, book)
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
        for service, numbers in fresh.numbers.items():
            known.numbers[service] = numbers | known.numbers.get(service, {})
        known.slots, known.sides = fresh.slots | known.slots, fresh.sides | known.sides
        known.limits, known.remotes = fresh.limits | known.limits, fresh.remotes | known.remotes
        known.elsewhere, known.listens = fresh.elsewhere | known.elsewhere, fresh.listens | known.listens
        return nft_text.text(transaction, known)

    def missing(self) -> list[str]:
        from portfleet.dataplane.nft import capabilities  # not for `status`

        return capabilities.missing()

    def problems(self, fleet: Fleet) -> list[Problem]:
        from portfleet.dataplane.nft import capabilities

        return [*capabilities.forwarding(fleet), *capabilities.unneeded(fleet)]

    def programs(self, fleet: Fleet) -> Mapping[str, Program]:  # noqa: ARG002 (the kernel needs no process)
        return {}

    def processes(self) -> Mapping[str, OwnProcess]:
        return {}

    def findings(self, fleet: Fleet, needs: Needs) -> list[Finding]:
        from portfleet.dataplane.nft.doctor import examine

        return list(examine(fleet, needs))

    def guardian(self) -> Guardian:
        from portfleet.dataplane.nft.guardian import NftGuardian

        # It works in another thread, so what it reads with is its own.
        guardian = NftGuardian(Lookup(NftReader(NAME), Memory(self._memory.path)))
        self._cache = guardian.cache
        return guardian

    def _book(self, transaction: c.Transaction) -> Book:
        return self._lookup.book(transaction, self.read_slots)

    def _read_slots(self, service: str) -> Table:
        return self._lookup.table("slots", service, self._lookup.numbers(service))

    def _refuse_used(self, transaction: c.Transaction) -> None:
        """Slots hold numbers, so the kernel itself would let an instance go that slots still point at."""
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
        services |= {service for name in dropped if (service := service_of_instance(name))}
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


def _made(transaction: c.Transaction) -> dict[str, Setting]:
    """Return the changes that set chains, by the unit they make."""
    made: dict[str, Setting] = {}
    for change in transaction:
        match change:
            case c.SetFleet(home):
                made |= dict.fromkeys(FIXED, SetBase(home))
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
            chains += [f"local_{name}", f"overflow_{name}", f"full_{name}", f"access_{name}"]
        else:
            chains += [f"try_{unit}", f"cap_{unit}", f"over_{unit}"]
    return chains
