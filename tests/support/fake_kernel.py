"""A data plane in memory: it takes and refuses what nftables does, and passes the same contract tests.

It is as strict as the oldest kernel we support: before Linux 6.2 a chain cannot be deleted in the transaction that
deletes the last element pointing to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

from portfleet.core import changes as c
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Affinity, Listen

Family = Literal[4, 6]
_FIXED = ""


@dataclass
class _Tables:
    """``chains`` of instances hold where they lead: their own rule, or by a detour the name of another instance."""

    home: str | None = None
    services: dict[str, c.ServiceRule] = field(default_factory=dict)
    chains: dict[str, c.InstanceRule | str] = field(default_factory=dict)
    slots: dict[str, dict[int, str]] = field(default_factory=dict)
    listens: dict[tuple[Family, str | None, int], str] = field(default_factory=dict)
    ports: frozenset[tuple[int, int]] = frozenset()
    edited: set[str] = field(default_factory=set)
    remotes: frozenset[int] = frozenset()
    limits: dict[int, str] = field(default_factory=dict)
    others: dict[tuple[c.Which, str], dict[int, str]] = field(default_factory=dict)
    taking: dict[str, frozenset[str]] = field(default_factory=dict)
    pins: dict[str, dict[str, str]] = field(default_factory=dict)


class FakeKernel:
    """See ``portfleet.core.changes.Kernel``. ``log`` holds every transaction that was carried out."""

    def __init__(self) -> None:
        self._now = _Tables()
        self.log: list[c.Transaction] = []

    def observe(self) -> c.PlaneState:
        now = self._now
        if now.home is None:
            return c.PlaneState()
        instances: dict[str, c.InstanceRule | None] = {
            name: rule if isinstance(rule, c.InstanceRule) and name not in now.edited else None
            for name, rule in now.chains.items()
        }
        detours = {name for name, rule in now.chains.items() if isinstance(rule, str)}
        return c.PlaneState(
            home=now.home,
            services={name: rule if name not in now.edited else None for name, rule in now.services.items()},
            instances=instances,
            slots={name: self.read_slots(name) for name in now.services},
            listens=self._listens(),
            ports=now.ports,
            remotes=now.remotes,
            limits=dict(now.limits),
            beside={
                n: found for n, rule in now.services.items() if (found := self.read_beside(rule)) != c.SideTables()
            },
            drift=frozenset(now.edited | detours),
        )

    def read_slots(self, service: str) -> tuple[str | None, ...]:
        return _filled(self._now.slots.get(service, {}))

    def read_beside(self, rule: c.ServiceRule) -> c.SideTables:
        local = _filled(self._now.others.get(("local", rule.name), {})) if rule.remote else ()
        overflow = _filled(self._now.others.get(("overflow", rule.name), {})) if rule.tries else ()
        taking = self._now.taking.get(rule.name, frozenset()) if rule.marked else frozenset()
        pins = dict(self._now.pins.get(rule.name, {})) if rule.pins else {}
        return c.SideTables(local, overflow, taking, pins)

    def read_sticky(self, rule: c.ServiceRule, source: bytes) -> str | None:  # noqa: ARG002 (no client comes here)
        return None

    def recover(self) -> c.PlaneState:
        state, now = self.observe(), self._now
        return c.PlaneState(
            home=state.home,
            services={n: c.ServiceRule(n, Affinity("source"), r.seed, r.slots) for n, r in now.services.items()},
            instances={n: rule if isinstance(rule, c.InstanceRule) else None for n, rule in now.chains.items()},
            slots=state.slots,
            listens=state.listens,
            ports=state.ports,
            drift=state.drift,
        )

    def check(self, transaction: c.Transaction) -> None:
        self._after(transaction)

    def run(self, transaction: c.Transaction) -> None:
        self._now = self._after(transaction)
        self.log.append(transaction)

    def text(self, transaction: c.Transaction) -> str:
        return "".join(f"{change}\n" for change in transaction)

    def edit(self, name: str) -> None:
        """Do as if somebody had edited the rules of an instance or a service ("" for the fixed part)."""
        self._now.edited.add(name)

    def forget(self) -> None:
        """Do as if nobody remembered what was set: everything there may be anybody's."""
        self._now.edited |= {_FIXED, *self._now.services, *self._now.chains}

    def _listens(self) -> dict[Listen, str]:
        found: dict[Listen, str] = {}
        for (family, address, port), service in self._now.listens.items():
            other: Family = 6 if family == 4 else 4
            if address is None and self._now.listens.get((other, None, port)) == service:
                found[Listen(port, None, (4, 6))] = service
            else:
                found[Listen(port, address, (family,))] = service
        return found

    def _after(self, transaction: c.Transaction) -> _Tables:
        """Return what ``transaction`` would make of the tables; raises PortfleetError where it is refused."""
        tables = deepcopy(self._now)
        for change in transaction:
            _apply(tables, change, began=self._now)
        _no_loops(tables.chains)
        return tables


def _apply(tables: _Tables, change: c.Change, *, began: _Tables) -> None:
    if not isinstance(change, c.SetBase):
        _demand(tables.home is not None, "no table", change)
    match change:
        case c.SetBase(home):
            tables.home = home
            tables.edited.discard(_FIXED)
        case c.SetService(rule):
            tables.services[rule.name] = rule
            tables.slots.setdefault(rule.name, {})
            tables.edited.discard(rule.name)
        case c.SetInstance(rule):
            tables.chains[rule.name] = rule
            tables.edited.discard(rule.name)
        case c.Detour(name, to):
            _demand({name, to} <= tables.chains.keys(), "no such chain", change)
            tables.chains[name] = to
        case c.SetPorts(ranges):
            tables.ports = ranges
        case c.SetListens(add, remove):
            for key, _ in _keys(remove):
                _demand(tables.listens.pop(key, None) is not None, "no such element", change)
            for key, service in _keys(add):
                _demand(service in tables.services, "no such chain", change)
                _demand(tables.listens.setdefault(key, service) == service, "element is there", change)
        case c.SetRemotes(marks):
            tables.remotes = marks
        case c.SetLimits(limited, free):
            for mark in free:
                _demand(tables.limits.pop(mark, None) is not None, "no such element", change)
            for mark, name in limited.items():
                _demand(tables.limits.setdefault(mark, name) == name, "element is there", change)
        case c.PointSlots():
            _point(tables, change)
        case c.SetTaking(service, joining, leaving):
            taking = tables.taking.get(service, frozenset())
            _demand(leaving <= taking, "no such element", change)
            tables.taking[service] = taking - leaving | joining
        case c.SetPins(service, pins, unpinned):
            now = tables.pins.setdefault(service, {})
            for network in unpinned:
                _demand(now.pop(network, None) is not None, "no such element", change)
            for network, name in pins.items():
                _demand(now.setdefault(network, name) == name, "element is there", change)
        case c.DropInstance(name):
            _demand(name in tables.chains, "no such chain", change)
            for state in (began, tables):
                used = {owner for slots in state.slots.values() for owner in slots.values()}
                _demand(name not in used | set(state.chains.values()), "chain is in use", change)
            del tables.chains[name]
            tables.limits = {mark: limited for mark, limited in tables.limits.items() if limited != name}
            tables.edited.discard(name)
        case c.DropService(name):
            _demand(name in tables.services, "no such chain", change)
            _demand(name not in {*tables.listens.values(), *began.listens.values()}, "chain is in use", change)
            del tables.services[name], tables.slots[name]
            tables.edited.discard(name)
        case c.DropAll():
            tables.__init__()  # type: ignore[misc] # as new


def _point(tables: _Tables, change: c.PointSlots) -> None:
    slots = tables.slots.get(change.service)
    if change.which != "slots":
        slots = tables.others.setdefault((change.which, change.service), {})
    _demand(slots is not None, "no such map", change)
    assert slots is not None
    for slot, (old, _) in change.moves.items():
        if old is not None:
            _demand(slots.pop(slot, None) is not None, "no such element", change)
    for slot, (_, new) in change.moves.items():
        if new is not None:
            _demand(new in tables.chains, "no such chain", change)
            _demand(slots.setdefault(slot, new) == new, "element is there", change)


def _filled(slots: Mapping[int, str]) -> tuple[str | None, ...]:
    return tuple(slots.get(slot) for slot in range(max(slots) + 1)) if slots else ()


def _keys(listens: Mapping[Listen, str]) -> list[tuple[tuple[Family, str | None, int], str]]:
    return [((f, listen.address, listen.port), service) for listen, service in listens.items() for f in listen.families]


def _no_loops(chains: Mapping[str, c.InstanceRule | str]) -> None:
    for name in chains:
        seen, at = {name}, chains[name]
        while isinstance(at, str):
            if at in seen:
                raise PortfleetError(f"cannot change the fake: {name} leads to itself", code=Exit.KERNEL)
            seen.add(at)
            at = chains[at]


def _demand(true: bool, words: str, change: c.Change) -> None:
    if not true:
        raise PortfleetError(f"cannot change the fake: {words}: {change}", code=Exit.KERNEL)
