"""Changes as nft text. Rules come from templates/nft, elements are written here: they are what moves at run time.

A chain is replaced by ``add chain`` (makes it if it is missing), ``flush chain`` and its rules in one transaction:
connections see the old rules or the new ones. Established connections never pass NAT chains again.

Slots hold numbers, and one small map per service leads from numbers to chains. Were chains in the slots themselves, the
kernel would look for loops through every slot of every service at every change of one of them (nft_chain_validate: at
1,000 services of 256 slots 100 ms a transaction instead of 1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import assert_never

from portfleet.core import changes as c
from portfleet.core.model import Affinity, Listen
from portfleet.dataplane.nft import access
from portfleet.dataplane.nft import book as b
from portfleet.dataplane.nft.affinity import expressions, sources
from portfleet.dataplane.nft.base import SetBase
from portfleet.dataplane.nft.book import TABLE, Book, add, delete, handle, service_of_instance
from portfleet.dataplane.nft.elements import ElementChange, PointSlots, SetPins, SetTaking, element_changes
from portfleet.dataplane.nft.sides import LOCAL_SLOTS, SideTables, side_tables
from portfleet.store.templating import fill

_IDENTIFIER = re.compile(r"[a-z][a-z0-9-]{0,60}")
#: A chain that another program made in our table may be called anything that nft takes.
_FOREIGN = re.compile(r"[A-Za-z_.][A-Za-z0-9/\\_.-]{0,250}")
_DIGEST = re.compile(r"[0-9a-f]{1,64}")
_ADDRESS = re.compile(r"[0-9a-f:.]{2,45}(/[0-9]{1,3})?")


def text(transaction: c.Transaction, book: Book) -> str:
    """Return a whole transaction as nft text and note its effects in ``book``.

    Raise PortfleetError for an instance without rules.
    """
    return "".join(line.rstrip("\n") + "\n" for change in transaction for line in _lines(change, book))


def rendered(change: SetBase | c.SetService | c.SetInstance) -> str:
    """Return the chains, maps and sets that ``change`` sets, as nft text."""
    match change:
        case SetBase(home):
            return _fill("nft/base.nft.j2", home=_name(home, _DIGEST))
        case c.SetService(service):
            return access.rendered(service) + _service(service)
        case c.SetInstance(instance):
            return _instance(instance)


def _lines(change: c.Change, book: Book) -> Iterator[str]:
    match change:
        case c.SetFleet(home, ports):
            yield rendered(SetBase(home))
            yield f"flush set {TABLE} ports"
            yield from add("ports", [f"{low}-{high}" if low != high else str(low) for low, high in sorted(ports)])
            yield f"flush set {TABLE} listened"
            yield from add("listened", [str(port) for port in sorted({listen.port for listen in book.listens})])
            yield from b.drop_strays(book)
        case c.SetService(service):
            yield rendered(change)
            yield from b.drop_strays(book, service.name)
        case c.SetInstance(rule):
            yield rendered(change)
            yield from b.set_instance(rule, book)
        case c.SetAccess(name, who):
            yield from access.lines(TABLE, _name(name), who, now=book.now)
        case c.SetListens(opened, closed):
            for name, elements in _by_map(closed).items():
                yield from delete(name, [key for key, _ in elements])
            for name, elements in _by_map(opened).items():
                yield from add(name, [f"{key} : goto service-{_name(service)}" for key, service in elements])
            yield from b.set_listens(opened, closed, book)
        case c.Route(rule):
            slots, now = book.slots.get(rule.name, ()), book.sides.get(rule.name, SideTables())
            numbers = {name: number for number, name in book.numbers.get(rule.name, {}).items()}
            for element in element_changes(change, slots, now):
                yield from _elements(element, numbers)
            book.slots[rule.name], book.sides[rule.name] = change.table, side_tables(change, now)
        case c.Divert(name, to):
            yield from b.divert(_name(name), _name(to), book)
        case c.DropInstance(name):
            yield from b.drop_instance(name, book)
            yield f"flush chain {TABLE} {_name(name, _FOREIGN)}"
            yield f"delete chain {TABLE} {name}"
        case c.DropService(name):
            yield f"flush chain {TABLE} service-{_name(name)}"
            yield f"delete chain {TABLE} service-{name}"
            yield f"delete map {TABLE} slots-{name}"
        case c.DropAll():
            yield f"delete table {TABLE}"
        case _:
            assert_never(change)


def _elements(change: ElementChange, numbers: Mapping[str, int]) -> Iterator[str]:
    """Return the changes of elements that stand for instances."""
    match change:
        case PointSlots(service, moves, which):
            name = f"{which}-{_name(service)}"
            yield from delete(name, [str(slot) for slot, (old, _) in moves.items() if old is not None])
            new = {slot: instance for slot, (_, instance) in moves.items() if instance is not None}
            if which == "overflow":
                yield from add(name, [f"{slot} : jump try_{_name(instance)}" for slot, instance in new.items()])
            else:
                yield from add(name, [f"{slot} : {_number(instance, numbers)}" for slot, instance in new.items()])
        case SetTaking(service, joining, leaving):
            name = f"taking-{_name(service)}"
            yield from delete(name, [_number(instance, numbers) for instance in sorted(leaving)])
            yield from add(name, [_number(instance, numbers) for instance in sorted(joining)])
        case SetPins(service, pins, unpinned):
            for family in (4, 6):
                name = f"pins{family}-{_name(service)}"
                yield from delete(name, _of_family(unpinned, family))
                yield from add(name, [f"{net} : {_number(pins[net], numbers)}" for net in _of_family(pins, family)])


def detached(transaction: c.Transaction, book: Book) -> str:
    """Return the first half of a transaction that drops instances: nothing leads to their chains any more.

    Before Linux 6.2 a chain cannot be deleted in the transaction that deletes the last element leading to it.
    """
    dropped = [change.name for change in transaction if isinstance(change, c.DropInstance)]
    copy = deepcopy(book) if dropped else book
    return "".join(f"{line}\n" for name in dropped for line in b.drop_instance(name, copy))


def _number(instance: str, numbers: Mapping[str, int]) -> str:
    """Return an instance's number as maps hold it."""
    if instance.startswith("?"):  # a number that leads nowhere, as it was read
        return handle(int(instance[1:]))
    if _name(instance) not in numbers:
        raise b.without_rules(instance)
    return handle(numbers[instance])


def _service(rule: c.ServiceRule) -> str:
    name, key = _name(rule.name), rule.affinity
    return _fill(
        "nft/service.nft.j2",
        name=name,
        expressions=expressions(key, seed=rule.seed, slots=rule.slots),
        local_expressions=expressions(key, seed=rule.seed, slots=LOCAL_SLOTS),
        pins=[(f"pins4-{name}", "ip saddr", "ip saddr"), (f"pins6-{name}", "ip6 saddr", "ip6 saddr")] * rule.pins,
        sticky=_sticky(name, rule.sticky, key),
        sticky_size=rule.sticky.size if rule.sticky else 0,
        chosen=bool(rule.pins or rule.sticky),
        remote=rule.remote,
        tries=int(rule.tries),
        empty=rule.empty,
        access=access.has_chain(rule),
    )


def _instance(rule: c.InstanceRule) -> str:
    service, remote = service_of_instance(_name(rule.name)), rule.remote
    return _fill(
        "nft/instance.nft.j2",
        name=rule.name,
        service=service,
        handle=handle(int(rule.number)),
        port=int(rule.port),
        sticky=_sticky(service, rule.sticky, rule.key or Affinity("source")),
        sticky_seconds=rule.sticky.seconds if rule.sticky else 0,
        sticky_size=rule.sticky.size if rule.sticky else 0,
        limit=int(rule.limit),
        spills=rule.spills,
        remote4=f"{_address(remote.address)}:{remote.port}" if remote and 4 in remote.families else "",
        remote6=f"[{_address(remote.address)}]:{remote.port}" if remote and 6 in remote.families else "",
    )


def _sticky(service: str, sticky: c.Sticky | None, key: Affinity) -> list[tuple[str, str, str]]:
    """Return (map, its key's type, key) of both families. The size is in the name: a map's size cannot be changed."""
    if sticky is None:
        return []
    four, six = sources(key)
    return [
        (f"sticky4-{sticky.size}-{service}", "ip saddr", four),
        (f"sticky6-{sticky.size}-{service}", "ip6 saddr", six),
    ]


def _fill(template: str, **values: object) -> str:
    return fill(template, **values).lstrip()


def _name(name: str, pattern: re.Pattern[str] = _IDENTIFIER) -> str:
    """Return ``name`` back if it is a plain identifier: nothing else may ever reach nft text. Raises ValueError."""
    if not pattern.fullmatch(name):
        raise ValueError(f"not an identifier: {name!r}")
    return name


def _address(text: str | None) -> str:
    return _name(text or "", _ADDRESS)


def _of_family(networks: Iterable[str], family: int) -> list[str]:
    return sorted(_address(network) for network in networks if (":" in network) == (family == 6))


def _by_map(listens: Mapping[Listen, str]) -> dict[str, list[tuple[str, str]]]:
    """Sort listen addresses into the maps they live in, as (key, service)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for listen, service in listens.items():
        for family in listen.families:
            name, key = f"local{family}", str(listen.port)
            if listen.address is not None:
                name, key = f"services{family}", f"{_address(listen.address)} . {listen.port}"
            found.setdefault(name, []).append((key, service))
    return found
