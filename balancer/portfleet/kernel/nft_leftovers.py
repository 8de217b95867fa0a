"""Maps and chains that a service needed once: rules without sticky, pins, a limit or remote instances leave them.

They are removed after the transaction that ended their use, for they can only go when nothing leads to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from portfleet.kernel import changes as c
from portfleet.kernel.nft_text import TABLE
from portfleet.model import parse_instance

_SETS = ("taking-", "counts-", "full-")


def parts_of(rule: c.ServiceRule | c.InstanceRule) -> frozenset[str]:
    """Give the maps and chains beside those every service has that ``rule`` needs."""
    if isinstance(rule, c.InstanceRule):
        tried = {f"try_{rule.name}"} if rule.limit and rule.spills else set()
        return frozenset(tried | ({f"cap_{rule.name}"} if rule.limit else set()))
    name = rule.name
    parts = {f"counts-{name}"} if rule.limited else set()
    if rule.remote:
        parts |= {f"local-{name}", f"local_{name}"}
    if rule.tries:
        parts |= {f"overflow-{name}", f"overflow_{name}", f"full-{name}", f"full_{name}"}
    if rule.marked:
        parts.add(f"taking-{name}")
    if rule.pins:
        parts |= {f"pins4-{name}", f"pins6-{name}"}
    if rule.sticky:
        parts |= {f"sticky4-{rule.sticky.size}-{name}", f"sticky6-{rule.sticky.size}-{name}"}
    return frozenset(parts)


def of_service(name: str, maps: Iterable[str], chains: Iterable[str]) -> frozenset[str]:
    """Give everything of a service that has no rules any more."""
    found = {part for part in maps if _service_of_map(part) == name}
    found |= {chain for chain in chains if chain in (f"local_{name}", f"overflow_{name}", f"full_{name}")}
    for chain in chains:
        kind, _, of = chain.partition("_")
        instance = parse_instance(of) if kind in ("try", "cap") else None
        if instance and instance.service == name:
            found.add(chain)
    return frozenset(found)


def _service_of_map(name: str) -> str:
    kind, _, of = name.partition("-")
    return of.partition("-")[2] if kind in ("sticky4", "sticky6") else of


def removal(parts: Iterable[str]) -> Iterator[str]:
    """Give two transactions that remove ``parts``: maps and what chains hold, then the chains.

    Before Linux 6.2 a chain cannot be deleted in the transaction that deletes the last element leading to it.
    """
    chains = sorted(part for part in parts if "_" in part)
    maps = sorted(part for part in parts if "_" not in part)
    first = [f"flush chain {TABLE} {chain}" for chain in chains]
    first += [f"delete {'set' if name.startswith(_SETS) else 'map'} {TABLE} {name}" for name in maps]
    for lines in (first, [f"delete chain {TABLE} {chain}" for chain in chains]):
        if lines:
            yield "\n".join(lines) + "\n"
