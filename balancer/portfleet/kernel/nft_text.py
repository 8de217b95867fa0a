"""Changes as nft text. Rules come from templates/nft, elements are written here: they are what moves at run time.

A chain is replaced by ``add chain`` (makes it where it is not), ``flush chain`` and its rules in one transaction:
connections see the old rules or the new ones. Established connections never pass NAT chains again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import assert_never

from portfleet.affinity import expressions
from portfleet.kernel import changes as c
from portfleet.model import Listen
from portfleet.templating import fill

TABLE = "inet portfleet"
BASE_CHAINS = ("prerouting", "output", "guard", "admit")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9-]{0,60}")
_DIGEST = re.compile(r"[0-9a-f]{1,64}")


def text(transaction: c.Transaction) -> str:
    """Give the whole transaction as nft text."""
    return "".join(line.rstrip("\n") + "\n" for change in transaction for line in _lines(change))


def _lines(change: c.Change) -> Iterator[str]:
    match change:
        case c.SetBase():
            yield fill("nft/base.nft.j2", home=_name(change.home, _DIGEST))
        case c.SetService(rule):
            ways = expressions(rule.affinity, seed=rule.seed, slots=rule.slots)
            yield fill("nft/service.nft.j2", name=_name(rule.name), expressions=ways)
        case c.SetInstance(rule):
            yield fill("nft/instance.nft.j2", name=_name(rule.name), mark=int(rule.mark), port=int(rule.port))
        case c.SetPorts(ranges):
            yield f"flush set {TABLE} ports"
            yield from _add("ports", [f"{low}-{high}" if low != high else str(low) for low, high in sorted(ranges)])
        case c.SetListens(add, remove):
            for name, elements in _by_map(remove).items():
                yield from _delete(name, [key for key, _ in elements])
            for name, elements in _by_map(add).items():
                yield from _add(name, [f"{key} : goto service-{_name(service)}" for key, service in elements])
        case c.PointSlots(service, moves):
            name = f"slots-{_name(service)}"
            yield from _delete(name, [str(slot) for slot, (old, _) in moves.items() if old is not None])
            yield from _add(
                name, [f"{slot} : goto {_name(new)}" for slot, (_, new) in moves.items() if new is not None]
            )
        case c.Detour(name, to):
            yield f"flush chain {TABLE} {_name(name)}"
            yield f"add rule {TABLE} {name} goto {_name(to)}"
        case c.DropInstance(name):
            yield f"flush chain {TABLE} {_name(name)}"
            yield f"delete chain {TABLE} {name}"
        case c.DropService(name):
            yield f"flush chain {TABLE} service-{_name(name)}"
            yield f"delete chain {TABLE} service-{name}"
            yield f"delete map {TABLE} slots-{name}"
        case c.DropAll():
            yield f"delete table {TABLE}"
        case _:
            assert_never(change)


def _name(name: str, pattern: re.Pattern[str] = _IDENTIFIER) -> str:
    """Give ``name`` back if it is a plain identifier: nothing else may ever reach nft text. Raises ValueError."""
    if not pattern.fullmatch(name):
        raise ValueError(f"not an identifier: {name!r}")
    return name


def _by_map(listens: Mapping[Listen, str]) -> dict[str, list[tuple[str, str]]]:
    """Sort listen addresses into the maps they live in, as (key, service)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for listen, service in listens.items():
        for family in listen.families:
            name, key = f"local{family}", str(listen.port)
            if listen.address is not None:
                name, key = f"services{family}", f"{listen.address} . {listen.port}"
            found.setdefault(name, []).append((key, service))
    return found


def _add(name: str, elements: list[str]) -> Iterator[str]:
    if elements:
        yield f"add element {TABLE} {name} {{ {', '.join(elements)} }}"


def _delete(name: str, keys: list[str]) -> Iterator[str]:
    if keys:
        yield f"delete element {TABLE} {name} {{ {', '.join(keys)} }}"
