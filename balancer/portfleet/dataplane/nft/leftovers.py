"""Maps and chains that a service needed once: rules without sticky, pins, a limit or remote instances leave them.

They are removed after the transaction that ended their use, for they can only go when nothing leads to them. An
instance that still has connections keeps its chain, by its old rules, after its service's rules are others or gone:
what that chain uses stays until the chain goes, or gets other rules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from portfleet.core import changes as c
from portfleet.dataplane.nft import access
from portfleet.dataplane.nft.book import TABLE, service_of_instance

_SETS = ("taking-", "counts-", "full-", "allow4-", "allow6-", "deny4-", "deny6-", "sources4-", "sources6-")


@dataclass(frozen=True)
class Leftovers:
    """What can go: chains ``emptied`` first and then, if they are in ``chains``, removed; ``maps`` are sets too."""

    maps: frozenset[str] = frozenset()
    chains: frozenset[str] = frozenset()
    emptied: frozenset[str] = frozenset()

    def __or__(self, other: Leftovers) -> Leftovers:
        return Leftovers(self.maps | other.maps, self.chains | other.chains, self.emptied | other.emptied)


def parts_of(rule: c.ServiceRule | c.InstanceRule) -> frozenset[str]:
    """Return the maps and chains beside those every service has that ``rule`` needs."""
    name = service_of(rule)
    parts: set[str] = set()
    if isinstance(rule, c.InstanceRule):
        if rule.limit:
            parts |= {f"cap_{rule.name}", f"over_{rule.name}", f"counts-{name}"}
        if rule.limit and rule.spills:
            parts |= {f"try_{rule.name}", f"full-{name}", f"overflow_{name}", f"full_{name}"}
    else:
        parts |= access.parts(rule)
        if rule.limited:
            parts.add(f"counts-{name}")
        if rule.remote:
            parts |= {f"local-{name}", f"local_{name}"}
        if rule.tries:
            parts |= {f"overflow-{name}", f"overflow_{name}", f"full-{name}", f"full_{name}"}
        if rule.pins or rule.sticky:
            parts.add(f"taking-{name}")
        if rule.pins:
            parts |= {f"pins4-{name}", f"pins6-{name}"}
    if rule.sticky:
        parts |= {f"sticky4-{rule.sticky.size}-{name}", f"sticky6-{rule.sticky.size}-{name}"}
    return frozenset(parts)


def service_of(rule: c.ServiceRule | c.InstanceRule) -> str:
    """Return the service of a rule."""
    return rule.name if isinstance(rule, c.ServiceRule) else service_of_instance(rule.name)


def by_service(maps: Iterable[str], chains: Iterable[str]) -> dict[str, tuple[set[str], set[str]]]:
    """Return {service: (its maps and sets, its chains)}."""
    found: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for name in maps:
        found[_service_of_map(name)][0].add(name)
    for name in chains:
        found[_service_of_chain(name)][1].add(name)
    return found


def of_service(
    name: str, maps: Collection[str], chains: Collection[str], rules: Iterable[c.ServiceRule | c.InstanceRule]
) -> Leftovers:
    """Return what can go of a service that has ``maps`` and ``chains``, if its chains were set by ``rules``."""
    needed = {part for rule in rules for part in parts_of(rule)}
    lives = f"service-{name}" in chains
    if lives:
        needed |= {f"instances-{name}", f"diverted-{name}", f"slots-{name}"}
        # Of an instance with a limit that its service has no more: what it cannot take goes on being tried.
        needed |= {f"overflow-{name}"} if f"overflow_{name}" in needed else set()
    beside = {chain for chain in chains if "_" in chain}
    going = beside - needed
    # Without its service no new client comes to an instance: the chain of what is over its limit can lead nowhere.
    emptied = going if lives else going | (beside & {f"overflow_{name}"})
    return Leftovers(frozenset(maps) - needed, frozenset(going), frozenset(emptied))


def _service_of_map(name: str) -> str:
    kind, _, of = name.partition("-")
    return of.partition("-")[2] if kind in ("sticky4", "sticky6", "sources4", "sources6") else of


def _service_of_chain(name: str) -> str:
    kind, _, of = name.partition("_")
    if kind in ("local", "overflow", "full", "access") and of:
        return of
    if name.startswith("service-"):
        return name.removeprefix("service-")
    return service_of_instance(of if kind in ("try", "cap", "over") and of else name)


def removal(left: Leftovers) -> Iterator[str]:
    """Return two transactions that remove ``left``: maps and what chains hold, then the chains.

    Before Linux 6.2 a chain cannot be deleted in the transaction that deletes the last element leading to it.
    """
    first = [f"flush chain {TABLE} {chain}" for chain in sorted(left.emptied)]
    kinds = {name: "set" if name.startswith(_SETS) else "map" for name in sorted(left.maps)}
    first += [f"delete {kind} {TABLE} {name}" for name, kind in kinds.items()]
    for lines in (first, [f"delete chain {TABLE} {chain}" for chain in sorted(left.chains)]):
        if lines:
            yield "\n".join(lines) + "\n"
