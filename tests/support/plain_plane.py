"""A second data plane in memory, with nothing of nftables in it: no marks, no chains, no tables beside the slots.

It knows services, instances, routes and listen addresses, as a plane that is a process would. That it passes the
contract tests shows that the interface asks for no more.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from portfleet.core import changes as c
from portfleet.core.access import Access
from portfleet.core.errors import Exit, PortfleetError, Problem
from portfleet.core.model import Affinity, Fleet, Listen, parse_instance
from portfleet.core.needs import Needs
from portfleet.core.observed import OwnProcess
from portfleet.core.program import Program
from portfleet.core.slots import Table
from portfleet.dataplane.interface import (
    Address,
    ClientConnection,
    Done,
    Door,
    Foreign,
    Hazard,
    Hold,
    Room,
    Shortage,
    Traits,
)
from portfleet.doctor.finding import Finding
from portfleet.linux.sockdiag import Ends

TRAITS = Traits(
    name="haproxy",
    words="the plane in memory",
    requires="nothing",
    place="this process",
    listen="loopback",
    families=frozenset({4}),
    sees_clients=False,
    guards_ports=False,
    survives=False,
    own_clients_apart=False,
    services_at_once=1000,
    slots_at_once=65536,
    slots_unnoticed=1000,
)


class NoConnections:
    """Of a plane that no client ever dials."""

    def count(self, instances: Iterable[c.InstanceRule]) -> Mapping[str, int | None]:
        return {rule.name: 0 for rule in instances}

    def of(self, instance: c.InstanceRule) -> list[Hold]:
        return []

    def of_client(self, instances: Iterable[c.InstanceRule], address: Address) -> list[ClientConnection]:
        return []

    def end(self, holds: Iterable[Hold]) -> int:
        return len(list(holds))

    def forget_unanswered(self, instance: c.InstanceRule) -> int:
        return 0

    def forget_ended(self, connections: Iterable[Ends]) -> None:
        pass

    def turned_away(self, instances: Iterable[c.InstanceRule]) -> Mapping[str, int]:
        return {rule.name: 0 for rule in instances}

    def refused(self, service: str) -> int:
        return 0

    def full(self) -> str:
        return ""

    def room(self) -> Room | None:
        return None


class NoGuardian:
    """Of a plane that no other process can reach."""

    every = 3600.0
    shortage: Shortage | None = None

    def fileno(self) -> int | None:
        return None

    def read(self) -> list[Foreign]:
        return []

    due = None

    def hold(self, doors: Iterable[Door]) -> None:
        self.held = frozenset(doors)

    def work(self) -> list[Done]:
        return []

    def hazards(self) -> list[Hazard]:
        return []

    def close(self) -> None:
        self.held = frozenset()


class InMemory:
    """What every plane in memory answers alike: it needs nothing, lacks nothing and finds nothing."""

    traits = TRAITS

    def __init__(self) -> None:
        self.connections = NoConnections()
        self.log: list[c.Transaction] = []

    def slot_of(self, affinity: Affinity, address: Address, port: int | None, *, seed: int, slots: int) -> int | None:
        if not affinity.deterministic:
            return None
        if affinity.kind == "connection" and port is None:
            raise ValueError("the affinity is by connection: the client's port counts too")
        return zlib.crc32(f"{seed} {address} {port if affinity.kind == 'connection' else ''}".encode()) % slots

    def table_for_own_clients(self, table: Table, local: Collection[str]) -> Table:
        return tuple(name if name in local else None for name in table)

    def remembered(self, rule: c.ServiceRule, address: Address) -> str | None:
        return None

    def text(self, transaction: c.Transaction) -> str:
        return "".join(f"{change}\n" for change in transaction)

    def missing(self) -> list[str]:
        return []

    def problems(self, fleet: Fleet) -> list[Problem]:
        return []

    def programs(self, fleet: Fleet) -> Mapping[str, Program]:
        return {}

    def processes(self) -> Mapping[str, OwnProcess]:
        return {}

    def findings(self, fleet: Fleet, needs: Needs) -> list[Finding]:
        return []

    def relocation(self) -> None:
        return None

    def guardian(self) -> NoGuardian:
        return NoGuardian()


@dataclass(frozen=True)
class _State:
    fleet: c.SetFleet | None = None
    services: Mapping[str, c.ServiceRule] = field(default_factory=dict)
    instances: Mapping[str, c.InstanceRule] = field(default_factory=dict)
    diverted: Mapping[str, str] = field(default_factory=dict)
    routes: Mapping[str, c.Route] = field(default_factory=dict)
    listens: Mapping[tuple[int, str | None, int], str] = field(default_factory=dict)
    access: Mapping[str, Access] = field(default_factory=dict)
    edited: frozenset[str] = frozenset()

    def slots(self, service: str) -> Table:
        table = self.routes[service].table if service in self.routes else ()
        return table[: max((slot + 1 for slot, name in enumerate(table) if name), default=0)]


class PlainPlane(InMemory):
    """See `DataPlane`. ``log`` holds every transaction that was carried out."""

    def __init__(self) -> None:
        super().__init__()
        self._now = _State()

    def version(self) -> None:
        return None

    def observe(self) -> c.PlaneState:
        now, edited = self._now, self._now.edited | self._now.diverted.keys()
        if now.fleet is None:
            return c.PlaneState()
        return c.PlaneState(
            fleet=now.fleet,
            services={name: None if name in edited else rule for name, rule in now.services.items()},
            instances={name: None if name in edited else rule for name, rule in now.instances.items()},
            slots={name: now.slots(name) for name in now.services},
            pins={name: route.pins for name, route in now.routes.items() if route.pins},
            access=now.access,
            unsettled=frozenset(n for n, rule in now.services.items() if not (rule.plain or self._routed(rule))),
            listens=_listens(now.listens),
            drift=frozenset(edited),
        )

    def _routed(self, rule: c.ServiceRule) -> bool:
        return rule.name in self._now.routes and self._now.routes[rule.name].rule == rule

    def read_slots(self, service: str) -> Table:
        return self._now.slots(service)

    def home(self) -> str | None:
        return self._now.fleet.home if self._now.fleet else None

    def recover(self) -> c.PlaneState:
        bare = {n: c.ServiceRule(n, Affinity("source"), r.seed, r.slots) for n, r in self._now.services.items()}
        return replace(self.observe(), services=bare, instances=dict(self._now.instances))

    def check(self, transaction: c.Transaction) -> None:
        _after(self._now, transaction)

    def run(self, transaction: c.Transaction) -> None:
        self._now = _after(self._now, transaction)
        self.log.append(transaction)

    def edit(self, name: str) -> None:
        """Do as if another process had edited the rules of an instance or a service ("" for the fixed part)."""
        self._now = replace(self._now, edited=self._now.edited | {name})

    def forget(self) -> None:
        """Do as if nothing were remembered of what was set."""
        self._now = replace(self._now, edited=frozenset({"", *self._now.services, *self._now.instances}))


def _after(state: _State, transaction: c.Transaction) -> _State:
    for change in transaction:
        state = _applied(state, change)
    for name in state.diverted:
        seen, at = {name}, state.diverted[name]
        while at in state.diverted:
            demand(at not in seen, "a ring of diversions", name)
            seen, at = seen | {at}, state.diverted[at]
    return state


def _applied(now: _State, change: c.Change) -> _State:
    if not isinstance(change, c.SetFleet):
        demand(now.fleet is not None, "there is no fleet", change)
    match change:
        case c.SetFleet():
            return replace(now, fleet=change, edited=now.edited - {""})
        case c.SetService(rule):
            return replace(now, services={**now.services, rule.name: rule}, edited=now.edited - {rule.name})
        case c.SetInstance(rule):
            diverted = _without(now.diverted, lambda name: name == rule.name)
            instances = {**now.instances, rule.name: rule}
            return replace(now, instances=instances, diverted=diverted, edited=now.edited - {rule.name})
        case c.SetListens(add, remove):
            listens = dict(now.listens)
            for key in _keys(remove):
                demand(listens.pop(key, None) is not None, "is not listened for", key)
            for key, service in _keys(add).items():
                demand(service in now.services and listens.setdefault(key, service) == service, "is another's", key)
            return replace(now, listens=listens)
        case c.SetAccess(name, who):
            demand(name in now.services and now.services[name].filters, "does not filter", name)
            return replace(
                now, access=_without(now.access, lambda n: n == name) | ({name: who} if who != Access() else {})
            )
        case c.Route(rule, table, pins):
            known = {*filter(None, table), *pins.values()} <= now.instances.keys()
            demand(rule.name in now.services and known, "names an unknown service or instance", rule.name)
            return replace(now, routes={**now.routes, rule.name: change})
        case c.Divert(name, to):
            demand({name, to} <= now.instances.keys(), "names an unknown instance", change)
            return replace(now, diverted={**now.diverted, name: to})
        case c.DropInstance(name):
            instance = parse_instance(name)
            slots = now.slots(instance.service) if instance and instance.service in now.services else ()
            demand(name in now.instances and name not in slots, "is unknown or in use", name)
            demand(name not in now.diverted.values(), "is in use", name)
            return replace(now, instances=_without(now.instances, lambda other: other == name))
        case c.DropService(name):
            demand(name in now.services and name not in now.listens.values(), "is unknown or in use", name)
            routes = _without(now.routes, lambda other: other == name)
            access = _without(now.access, lambda other: other == name)
            services = _without(now.services, lambda other: other == name)
            return replace(now, services=services, routes=routes, access=access)
        case c.DropAll():
            return _State()


def demand(true: bool, words: str, about: object) -> None:
    """Refuse as a data plane does unless ``true``."""
    if not true:
        raise PortfleetError(f"cannot change the plane in memory: {about} {words}", code=Exit.KERNEL)


def _without(found: Mapping[str, Any], gone: Callable[[str], bool]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if not gone(name)}


def _keys(listens: Mapping[Listen, str]) -> dict[tuple[int, str | None, int], str]:
    return {(f, listen.address, listen.port): name for listen, name in listens.items() for f in listen.families}


def _listens(found: Mapping[tuple[int, str | None, int], str]) -> dict[Listen, str]:
    return c.join_families({Listen(port, at, (family,)): name for (family, at, port), name in found.items()})  # type: ignore[arg-type] # 4 or 6
