"""What sets our table: a transaction becomes text, the kernel takes it whole, and what nothing needs any more goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import reduce
from operator import or_

from portfleet.core import changes as c
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import parse_instance
from portfleet.core.slots import Table
from portfleet.dataplane.nft import leftovers, listing
from portfleet.dataplane.nft import text as nft_text
from portfleet.dataplane.nft.base import FIXED, SetBase
from portfleet.dataplane.nft.book import Book, service_of_instance
from portfleet.dataplane.nft.context import InUse, NftContext, TooLong
from portfleet.dataplane.nft.detour import Detour
from portfleet.dataplane.nft.lookup import Lookup
from portfleet.dataplane.nft.memory import Memory, Setting
from portfleet.dataplane.nft.parts import halves
from portfleet.dataplane.nft.reader import NftReader

Rule = c.ServiceRule | c.InstanceRule


class NftWriter:
    """Sets our table through libnftables. ``slots`` gives those of a service; methods raise PortfleetError."""

    def __init__(self, reader: NftReader, lookup: Lookup, memory: Memory, slots: Callable[[str], Table]) -> None:
        self._reader, self._lookup, self._memory, self._slots = reader, lookup, memory, slots
        self._printed = Book()
        self._nft = NftContext()
        self._detour, self._diverted = Detour(reader, lookup), 0

    def done(self) -> int:
        """Return how many transactions the kernel has taken of us."""
        return self._nft.done + self._diverted

    def check(self, transaction: c.Transaction) -> None:
        """Have the kernel try it; see `DataPlane.check`."""
        self._refuse_used(transaction)
        self._nft.do(nft_text.text(transaction, self._book(transaction)), dry=True)

    def run(self, transaction: c.Transaction) -> None:
        """Set it, in parts if the kernel takes no message that long; see `DataPlane.run`."""
        if len(transaction) == 1 and isinstance(change := transaction[0], c.Divert):
            self._diverted += self._detour.run(change)
            return
        try:
            self._commit(transaction)
        except TooLong:
            if (parts := halves(transaction, self._slots)) is None:
                raise
            for part in parts:
                self.run(part)

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
        """Return what `run` would load; see `DataPlane.text`."""
        known, fresh = self._printed, self._book(transaction)
        for service, numbers in fresh.numbers.items():
            known.numbers[service] = numbers | known.numbers.get(service, {})
        known.diverted = fresh.diverted | known.diverted
        known.slots, known.sides = fresh.slots | known.slots, fresh.sides | known.sides
        known.limits, known.remotes = fresh.limits | known.limits, fresh.remotes | known.remotes
        known.elsewhere, known.listens = fresh.elsewhere | known.elsewhere, fresh.listens | known.listens
        return nft_text.text(transaction, known)

    def _book(self, transaction: c.Transaction) -> Book:
        return self._lookup.book(transaction, self._slots)

    def _refuse_used(self, transaction: c.Transaction) -> None:
        """Slots hold numbers, so the kernel itself would let an instance go that slots still point at."""
        gone = {change.name for change in transaction if isinstance(change, c.DropService)}
        for change in transaction:
            instance = parse_instance(change.name) if isinstance(change, c.DropInstance) else None
            if instance and instance.service not in gone and instance.name in self._slots(instance.service):
                raise PortfleetError(
                    f"cannot forget {instance.name}: slots of {instance.service} point at it",
                    hint="portfleet plan",
                    code=Exit.KERNEL,
                )
        dropped = {change.name for change in transaction if isinstance(change, c.DropInstance)}
        for service in {service_of_instance(name) for name in dropped} - gone:
            self._refuse_stand_ins(service, dropped)

    def _refuse_stand_ins(self, service: str, dropped: Collection[str]) -> None:
        """Refuse to drop an instance that gets the new connections of one that stays."""
        diverted = self._lookup.diverted(service)
        numbers = self._lookup.numbers(service) if diverted else {}
        for name, stand_in in ((numbers.get(one), numbers.get(to)) for one, to in diverted.items()):
            if name and stand_in in dropped and name not in dropped:
                raise PortfleetError(
                    f"cannot forget {stand_in}: the new connections of {name} are led to it",
                    hint="portfleet apply",
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
