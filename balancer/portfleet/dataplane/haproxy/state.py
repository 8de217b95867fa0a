"""What the plane is set to, as a value, and what a transaction makes of it. Pure: HAProxy's files follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from portfleet.core import changes as c
from portfleet.core.access import Access
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Listen, parse_instance
from portfleet.core.slots import Table

V = TypeVar("V")


@dataclass(frozen=True)
class Unit:
    """All that goes with one service's name; ``rule`` is None while only instances of it are known.

    ``settled`` is the rule by which the slots were pointed last. ``listens`` are by family: {(family, address, port)}.
    """

    rule: c.ServiceRule | None = None
    settled: c.ServiceRule | None = None
    instances: Mapping[str, c.InstanceRule] = field(default_factory=dict)
    diverted: Mapping[str, str] = field(default_factory=dict)
    table: Table = ()
    pins: Mapping[str, str] = field(default_factory=dict)
    overflow: tuple[str, ...] = ()
    listens: frozenset[tuple[int, str | None, int]] = frozenset()
    access: Access = field(default_factory=Access)

    def leads_to(self, name: str) -> str:
        """Return the instance that new connections of ``name`` get to in the end."""
        while name in self.diverted:
            name = self.diverted[name]
        return name

    @property
    def slots(self) -> Table:
        """The table up to the last slot that points anywhere."""
        return self.table[: max((slot + 1 for slot, name in enumerate(self.table) if name), default=0)]

    @property
    def closed(self) -> bool:
        """Whether clients are to be refused, for no slot points anywhere."""
        return self.rule is not None and self.rule.empty == "refuse" and self.settled is not None and not self.slots

    @property
    def taking(self) -> frozenset[str]:
        """The instances that slots point at."""
        return frozenset(name for name in self.table if name)


@dataclass(frozen=True)
class State:
    """The whole plane; ``fleet`` is None if there is nothing of ours."""

    fleet: c.SetFleet | None = None
    units: Mapping[str, Unit] = field(default_factory=dict)

    def unit(self, service: str) -> Unit:
        """Return a service's unit, an empty one if there is none."""
        return self.units.get(service, Unit())

    def services(self) -> Iterator[tuple[str, c.ServiceRule, Unit]]:
        """Return the services that have rules, by name."""
        for name, unit in sorted(self.units.items()):
            if unit.rule is not None:
                yield name, unit.rule, unit


def after(state: State, transaction: c.Transaction) -> State:
    """Return what ``transaction`` makes of ``state``; raise PortfleetError (exit 3) if it cannot be."""
    for change in transaction:
        state = _applied(state, change)
    for unit in state.units.values():
        for name in unit.diverted:
            seen, at = {name}, unit.diverted[name]
            while at in unit.diverted:
                _demand(at not in seen, "is in a ring of diversions", name)
                seen, at = seen | {at}, unit.diverted[at]
    return state


def service_of(name: str) -> str:
    """Return the service of an instance; raise PortfleetError (exit 3) if that is not an instance's name."""
    instance = parse_instance(name)
    _demand(instance is not None, "is not an instance", name)
    return instance.service if instance else ""


def _applied(now: State, change: c.Change) -> State:
    if isinstance(change, c.SetFleet):
        return replace(now, fleet=change)
    _demand(now.fleet is not None, "needs a fleet that is set", type(change).__name__)
    match change:
        case c.SetService(rule):
            return _with(now, rule.name, rule=rule)
        case c.SetInstance(rule):
            service = service_of(rule.name)
            unit = now.unit(service)
            diverted = _without(unit.diverted, rule.name)
            return _with(now, service, instances={**unit.instances, rule.name: rule}, diverted=diverted)
        case c.SetListens(add, remove):
            return _listens(now, add, remove)
        case c.SetAccess(name, who):
            asks = now.unit(name).rule
            _demand(asks is not None and asks.filters, "does not filter", name)
            return _with(now, name, access=who)
        case c.Route():
            return _routed(now, change)
        case c.Divert(name, to):
            unit = now.unit(service_of(name))
            _demand({name, to} <= unit.instances.keys(), "has no such instance", f"{name} → {to}")
            return _with(now, service_of(name), diverted={**unit.diverted, name: to})
        case c.DropInstance(name):
            return _without_instance(now, name)
        case c.DropService(name):
            unit = now.unit(name)
            _demand(unit.rule is not None and not unit.listens, "is unknown or listened for", name)
            bare = Unit(instances=unit.instances, diverted=unit.diverted)
            return replace(now, units={**now.units, name: bare} if unit.instances else _without(now.units, name))
        case c.DropAll():
            return State()


def _with(now: State, service: str, **values: object) -> State:
    return replace(now, units={**now.units, service: replace(now.unit(service), **values)})  # type: ignore[arg-type] # fields of Unit


def _listens(now: State, add: Mapping[Listen, str], remove: Mapping[Listen, str]) -> State:
    for listen, service in remove.items():
        for key in _keys(listen):
            _demand(key in now.unit(service).listens, "is not listened on", listen)
            now = _with(now, service, listens=now.unit(service).listens - {key})
    for listen, service in add.items():
        _demand(now.unit(service).rule is not None, "is an unknown service", service)
        for key in _keys(listen):
            taken = any(key in unit.listens for name, unit in now.units.items() if name != service)
            _demand(not taken, "is another service's", listen)
            now = _with(now, service, listens=now.unit(service).listens | {key})
    return now


def _routed(now: State, change: c.Route) -> State:
    name, unit = change.rule.name, now.unit(change.rule.name)
    known = {*filter(None, change.table), *change.pins.values()} <= unit.instances.keys()
    _demand(unit.rule is not None and known, "is an unknown service or has an unknown instance", name)
    overflow = unit.overflow if change.overflow is None else change.overflow
    taking = dict.fromkeys(name for name in change.table if name)
    order = [*(one for one in overflow if one in taking), *(one for one in taking if one not in overflow)]
    return _with(now, name, settled=change.rule, table=change.table, pins=dict(change.pins), overflow=tuple(order))


def _without_instance(now: State, name: str) -> State:
    service = service_of(name)
    unit = now.unit(service)
    _demand(name in unit.instances and name not in unit.taking, "is unknown, or slots point at it", name)
    _demand(name not in unit.diverted.values(), "is where another instance's connections go", name)
    left = replace(unit, instances=_without(unit.instances, name), diverted=_without(unit.diverted, name))
    return replace(now, units={**now.units, service: left} if left.rule or left.instances else
                   _without(now.units, service))  # fmt: skip


def _demand(true: bool, words: str, about: object) -> None:
    if not true:
        raise PortfleetError(
            f"cannot change HAProxy: {about} {words}; nothing was applied", hint="portfleet plan", code=Exit.KERNEL
        )


def _without(found: Mapping[str, V], name: str) -> dict[str, V]:
    return {key: value for key, value in found.items() if key != name}


def _keys(listen: Listen) -> Iterator[tuple[int, str | None, int]]:
    return ((family, listen.address, listen.port) for family in listen.families)


def listens(state: State) -> dict[Listen, str]:
    """Return every listen address with its service, the families of ":PORT" joined."""
    keys = ((name, key) for name, unit in state.units.items() for key in sorted(unit.listens, key=str))
    return c.join_families({Listen(port, at, (family,)): name for name, (family, at, port) in keys})  # type: ignore[arg-type] # 4 or 6
