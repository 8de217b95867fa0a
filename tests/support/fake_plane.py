"""A data plane in memory that takes and refuses what nftables does, and passes the same contract tests.

It is as strict as the oldest kernel we support: before Linux 6.2 a chain cannot be deleted in the transaction that
deletes the last element pointing to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

from portfleet.core import changes as c
from portfleet.core.access import Access
from portfleet.core.model import Affinity, Listen, parse_instance
from portfleet.core.slots import Table
from portfleet.dataplane.nft.sides import SideTables, side_tables
from portfleet.dataplane.nft.traits import TRAITS
from support.plain_plane import InMemory, demand

Family = Literal[4, 6]


@dataclass
class _Tables:
    """``chains`` of instances hold where they lead: their own rule, or by a diversion the name of another instance."""

    fleet: c.SetFleet | None = None
    services: dict[str, c.ServiceRule] = field(default_factory=dict)
    chains: dict[str, c.InstanceRule | str] = field(default_factory=dict)
    slots: dict[str, Table] = field(default_factory=dict)
    sides: dict[str, SideTables] = field(default_factory=dict)
    tried: frozenset[str] = frozenset()
    listens: dict[tuple[Family, str | None, int], str] = field(default_factory=dict)
    access: dict[str, Access] = field(default_factory=dict)
    edited: set[str] = field(default_factory=set)


class FakePlane(InMemory):
    """See `DataPlane`. ``log`` holds every transaction that was carried out."""

    traits = TRAITS

    def __init__(self) -> None:
        super().__init__()
        self._now = _Tables()

    def version(self) -> None:
        return None

    def observe(self) -> c.PlaneState:
        now = self._now
        if now.fleet is None:
            return c.PlaneState()
        diverted = {name for name, rule in now.chains.items() if isinstance(rule, str)}
        return c.PlaneState(
            fleet=now.fleet,
            services={name: rule if name not in now.edited else None for name, rule in now.services.items()},
            instances={
                name: rule if isinstance(rule, c.InstanceRule) and name not in now.edited else None
                for name, rule in now.chains.items()
            },
            slots={name: self.read_slots(name) for name in now.services},
            pins={name: side.pins for name, side in now.sides.items() if side.pins},
            access={name: who for name, who in now.access.items() if who != Access()},
            unsettled=frozenset(name for name, rule in now.services.items() if not self._settled(rule)),
            listens=self._listens(),
            drift=frozenset(now.edited | diverted),
        )

    def read_slots(self, service: str) -> Table:
        table = self._now.slots.get(service, ())
        return table[: max((slot + 1 for slot, name in enumerate(table) if name), default=0)]

    def sides(self, service: str) -> SideTables:
        """Return what stands beside a service's slots."""
        return self._now.sides.get(service, SideTables())

    def home(self) -> str | None:
        return self._now.fleet.home if self._now.fleet else None

    def recover(self) -> c.PlaneState:
        now = self._now
        bare = {n: c.ServiceRule(n, Affinity("source"), r.seed, r.slots) for n, r in now.services.items()}
        rules = {n: rule if isinstance(rule, c.InstanceRule) else None for n, rule in now.chains.items()}
        return replace(self.observe(), services=bare, instances=rules)

    def check(self, transaction: c.Transaction) -> None:
        self._after(transaction)

    def run(self, transaction: c.Transaction) -> None:
        self._now = self._after(transaction)
        self.log.append(transaction)

    def edit(self, name: str) -> None:
        """Do as if another process had edited the rules of an instance or a service ("" for the fixed part)."""
        self._now.edited.add(name)

    def forget(self) -> None:
        """Do as if nothing were remembered of what was set."""
        self._now.edited |= {"", *self._now.services, *self._now.chains}

    def _settled(self, rule: c.ServiceRule) -> bool:
        now = self.sides(rule.name)
        change = c.Route(rule, self._now.slots.get(rule.name, ()), now.pins)
        now = replace(now, tried=self._now.tried)
        return rule.plain or side_tables(change, now) == now

    def _listens(self) -> dict[Listen, str]:
        found = {Listen(port, address, (f,)): service for (f, address, port), service in self._now.listens.items()}
        return c.join_families(found)

    def _after(self, transaction: c.Transaction) -> _Tables:
        """Return what ``transaction`` would make of the tables; raise PortfleetError if it is refused."""
        tables = deepcopy(self._now)
        for change in transaction:
            _apply(tables, change, began=self._now)
        _no_loops(tables.chains)
        return tables


def _apply(tables: _Tables, change: c.Change, *, began: _Tables) -> None:
    if not isinstance(change, c.SetFleet):
        demand(tables.fleet is not None, "no table", change)
    match change:
        case c.SetFleet():
            tables.fleet = change
            tables.edited.discard("")
        case c.SetService(rule):
            tables.services[rule.name] = rule
            tables.slots.setdefault(rule.name, ())
            tables.edited.discard(rule.name)
        case c.SetInstance(rule):
            tables.chains[rule.name] = rule
            tables.tried = tables.tried - {rule.name} | ({rule.name} if rule.overflows else set())
            tables.edited.discard(rule.name)
        case c.SetAccess(name, who):
            demand(name in tables.services and tables.services[name].filters, "no such set", change)
            tables.access[name] = who
        case c.Divert(name, to):
            demand({name, to} <= tables.chains.keys(), "no such chain", change)
            tables.chains[name] = to
        case c.SetListens(add, remove):
            for key, _ in _keys(remove):
                demand(tables.listens.pop(key, None) is not None, "no such element", change)
            for key, service in _keys(add):
                demand(service in tables.services, "no such chain", change)
                demand(tables.listens.setdefault(key, service) == service, "element is there", change)
        case c.Route(rule, table):
            demand(rule.name in tables.slots, "no such map", change)
            new = side_tables(change, replace(tables.sides.get(rule.name, SideTables()), tried=tables.tried))
            used = {*filter(None, (*table, *new.local, *new.overflow)), *new.taking, *new.pins.values()}
            demand(used <= tables.chains.keys(), "no such chain", change)
            tables.slots[rule.name], tables.sides[rule.name] = table, new
        case c.DropInstance(name):
            demand(name in tables.chains, "no such chain", change)
            instance = parse_instance(name)
            slots = tables.slots.get(instance.service, ()) if instance else ()
            demand(name not in slots, "slots point at it", change)
            for state in (began, tables):
                demand(name not in state.chains.values(), "chain is in use", change)
            del tables.chains[name]
            tables.tried -= {name}
            tables.edited.discard(name)
        case c.DropService(name):
            demand(name in tables.services, "no such chain", change)
            demand(name not in {*tables.listens.values(), *began.listens.values()}, "chain is in use", change)
            del tables.services[name], tables.slots[name]
            tables.sides.pop(name, None)
            tables.access.pop(name, None)
            tables.edited.discard(name)
        case c.DropAll():
            tables.__init__()  # type: ignore[misc] # as new


def _keys(listens: Mapping[Listen, str]) -> list[tuple[tuple[Family, str | None, int], str]]:
    return [((f, listen.address, listen.port), service) for listen, service in listens.items() for f in listen.families]


def _no_loops(chains: Mapping[str, c.InstanceRule | str]) -> None:
    for name in chains:
        seen, at = {name}, chains[name]
        while isinstance(at, str):
            demand(at not in seen, "leads to itself", name)
            seen.add(at)
            at = chains[at]
