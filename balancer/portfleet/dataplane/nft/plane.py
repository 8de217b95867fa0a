"""nftables as the data plane: text in through libnftables, state out through nfnetlink.

One transaction is one batch on one netlink socket: the kernel takes all of it or nothing, and packets see the state
before or the state after; `parts` is for what is too long for that. What we set is remembered beside the kernel's form
of it (``run/rules.json``), so that a later difference is a hand edit; without that file rules are simply set again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, reduce
from operator import or_
from pathlib import Path

from portfleet.core import changes as c
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Affinity, parse_instance
from portfleet.core.slots import Table
from portfleet.dataplane.nft import leftovers, listing
from portfleet.dataplane.nft import text as nft_text
from portfleet.dataplane.nft.context import InUse, NftContext, TooLong
from portfleet.dataplane.nft.memory import Memory, Setting
from portfleet.dataplane.nft.parts import halves
from portfleet.dataplane.nft.reader import NftReader

NAME = "portfleet"
_LISTENS = ("services4", "services6", "local4", "local6")
_FIXED = frozenset({"prerouting", "output", "postrouting", "guard", "admit"})
Rule = c.ServiceRule | c.InstanceRule


class NftPlane:
    """The real data plane (see ``Kernel``). ``memory`` is the file that remembers what was set."""

    def __init__(self, memory: Path) -> None:
        self._memory = Memory(memory)
        self._reader = NftReader(NAME)
        self._writer = nft_text.Writer()

    @cached_property
    def _nft(self) -> NftContext:
        return NftContext()

    def observe(self) -> c.PlaneState:
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
        maps = self._reader.maps()
        marks = {name: self._marks(name) for name in services}
        astray = _astray(services, instances, marks)
        found = dict(pair for name in _LISTENS for pair in listing.listens(name, self._reader.elements(name)))
        drift = {name.removeprefix("service-") for name in now if name not in same and name not in _FIXED}
        return c.PlaneState(
            home=listing.home_of(chains),
            services={name: None if name in astray else rule for name, rule in services.items()},
            instances={name: None if name in astray else rule for name, rule in instances.items()},
            slots={name: self._table("slots", name, marks[name]) for name in services},
            beside={n: beside for n in services if (beside := self._beside(n, maps, marks[n])) != c.SideTables()},
            listens=c.merge(found),
            ports=listing.ranges(self._reader.elements("ports")),
            limits=self._limits(),
            remotes=frozenset(listing.number(element.key) for element in self._reader.elements("remotes")),
            stale=frozenset({""} if same >= _FIXED and not fresh >= _FIXED else set()),
            drift=frozenset(drift | astray | ({""} if not same >= _FIXED else set())),
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
        return self._table("slots", service, self._marks(service))

    def read_beside(self, rule: c.ServiceRule) -> c.SideTables:
        has = [f"local-{rule.name}"] * rule.remote + [f"overflow-{rule.name}"] * bool(rule.tries)
        has += [f"taking-{rule.name}"] * rule.marked + [f"pins4-{rule.name}"] * rule.pins
        return self._beside(rule.name, has, self._marks(rule.name)) if has else c.SideTables()

    def read_sticky(self, rule: c.ServiceRule, source: bytes) -> str | None:
        family = 4 if len(source) == 4 else 6
        name = f"sticky{family}-{rule.sticky.size if rule.sticky else 0}-{rule.name}"
        found = self._reader.element(name, source)
        return _named(listing.number(found.data), self._marks(rule.name)) if found and found.data else None

    def check(self, transaction: c.Transaction) -> None:
        self._refuse_used(transaction)
        self._nft.do(nft_text.text(transaction, self._known(transaction)), dry=True)

    def run(self, transaction: c.Transaction) -> None:
        try:
            self._commit(transaction)
        except TooLong:
            if (parts := halves(transaction)) is None:
                raise
            for part in parts:
                self.run(part)

    def _commit(self, transaction: c.Transaction) -> None:
        self._refuse_used(transaction)
        known = self._known(transaction)
        made = _made(transaction)
        before = [rule for name in made if (rule := self._memory.rule(name))]
        script = nft_text.text(transaction, known)
        if first := nft_text.unmarked(transaction, known):
            self._nft.do(script, dry=True)
            self._nft.do(first)
            script = nft_text.text(transaction, self._known(transaction))
        self._nft.do(script)
        self._sweep(transaction, before, {n: set_.rule for n, set_ in made.items() if not isinstance(set_, c.SetBase)})
        if made:
            self._memory.note(made, listing.digests(self._reader.chains(*_chains(made))))

    def text(self, transaction: c.Transaction) -> str:
        self._writer.learn(self._known(transaction))
        return self._writer.text(transaction)

    def _known(self, transaction: c.Transaction) -> dict[str, dict[int, str]]:
        services = {service for change in transaction if (service := nft_text.service_of(change))}
        known = {service: self._marks(service) for service in services}
        if any(isinstance(change, c.DropInstance) for change in transaction):
            known[nft_text.LIMIT] = self._limits()
        return known

    def _limits(self) -> dict[int, str]:
        found = self._reader.elements("limits")
        return {listing.number(element.key): (element.chain or "?").removeprefix("cap_") for element in found}

    def _marks(self, service: str) -> dict[int, str]:
        return listing.marks(self._reader.elements(f"instances-{service}"))

    def _table(self, which: c.Which, service: str, marks: dict[int, str]) -> Table:
        slots = {slot: _named(mark, marks) for slot, mark in self._reader.registers(f"{which}-{service}").items()}
        return tuple(slots.get(slot) for slot in range(max(slots) + 1)) if slots else ()

    def _beside(self, service: str, maps: Iterable[str], marks: dict[int, str]) -> c.SideTables:
        there = {name.partition("-")[0] for name in maps if name.partition("-")[2] == service}
        if not there & {"local", "overflow", "taking", "pins4"}:
            return c.SideTables()
        tried = {listing.number(e.key): e.chain or "?" for e in self._reader.elements(f"overflow-{service}")}
        taking = self._reader.elements(f"taking-{service}") if "taking" in there else []
        return c.SideTables(
            local=self._table("local", service, marks) if "local" in there else (),
            overflow=tuple(tried[n].removeprefix("try_") if n in tried else None for n in range(max(tried) + 1))
            if tried
            else (),
            taking=frozenset(_named(listing.number(element.key), marks) for element in taking),
            pins=self._pins(service, marks) if "pins4" in there else {},
        )

    def _pins(self, service: str, marks: dict[int, str]) -> dict[str, str]:
        found = [(family, self._reader.elements(f"pins{family}-{service}")) for family in (4, 6)]
        pairs = (pair for family, elements in found for pair in listing.networks(elements, six=family == 6))
        return {network: _named(mark, marks) for network, mark in pairs}

    def _refuse_used(self, transaction: c.Transaction) -> None:
        """Slots hold marks, so the kernel itself would let an instance go that slots still point at."""
        for change in transaction:
            instance = parse_instance(change.name) if isinstance(change, c.DropInstance) else None
            if instance and instance.name in self.read_slots(instance.service):
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
    services: Mapping[str, c.ServiceRule | None],
    instances: Mapping[str, c.InstanceRule | None],
    marks: Mapping[str, Mapping[int, str]],
) -> set[str]:
    """Return instances to which not just their own mark leads, and services with marks that lead to none of theirs."""
    leading: dict[str, list[int]] = {}
    for leads in marks.values():
        for mark, name in leads.items():
            leading.setdefault(name, []).append(mark)
    found = {name for name, rule in instances.items() if rule and leading.get(name) != [rule.mark]}
    return found | {service for service in services if any(name not in instances for name in marks[service].values())}


def _named(mark: int, marks: dict[int, str]) -> str:
    """Return the instance to which a mark leads; "?" and the number for one that leads nowhere."""
    return marks.get(mark, f"?{mark}")


def _made(transaction: c.Transaction) -> dict[str, Setting]:
    """Return the changes that set chains, by the unit they make."""
    made: dict[str, Setting] = {}
    for change in transaction:
        match change:
            case c.SetBase():
                made |= dict.fromkeys(_FIXED, change)
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
