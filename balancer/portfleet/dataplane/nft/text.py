"""Changes as nft text. Rules come from templates/nft, elements are written here: they are what moves at run time.

A chain is replaced by ``add chain`` (makes it where it is not), ``flush chain`` and its rules in one transaction:
connections see the old rules or the new ones. Established connections never pass NAT chains again.

Slots hold marks, numbers, and one small map per service leads from marks to chains. Were chains in the slots
themselves, the kernel would look for loops through every slot of every service at every change of one of them
(nft_chain_validate: at 1,000 services of 256 slots 100 ms a transaction instead of 1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import assert_never

from portfleet.core import changes as c
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Affinity, Listen, parse_instance
from portfleet.dataplane.nft.affinity import expressions, sources
from portfleet.store.templating import fill

TABLE = "inet portfleet"
#: Connection marks of those who are told no, above all marks of instances.
REFUSED, DROPPED = (1 << 24) - 1, (1 << 24) - 2
#: What the kernel has: {service: {mark: instance}}; by LIMIT, which no service is called, of those with a limit.
LIMIT = "+limit"
Marks = Mapping[str, Mapping[int, str]]
_IDENTIFIER = re.compile(r"[a-z][a-z0-9-]{0,60}")
#: A chain that somebody else made in our table may be called anything that nft takes.
_FOREIGN = re.compile(r"[A-Za-z_.][A-Za-z0-9/\\_.-]{0,250}")
_DIGEST = re.compile(r"[0-9a-f]{1,64}")
_ADDRESS = re.compile(r"[0-9a-f:.]{2,45}(/[0-9]{1,3})?")


class Writer:
    """Writes transactions that come one after the other: what one of them sets, a later one may point at."""

    def __init__(self, marks: Marks | None = None) -> None:
        self._book = {service: dict(known) for service, known in (marks or {}).items()}

    def learn(self, marks: Marks) -> None:
        """Take ``marks`` for what the kernel has; what was written but not run meanwhile is kept beside it."""
        for service, known in marks.items():
            self._book[service] = self._book.get(service, {}) | dict(known)

    def text(self, transaction: c.Transaction) -> str:
        """Return a whole transaction as nft text; raises PortfleetError for an instance of which nothing is known."""
        return "".join(line.rstrip("\n") + "\n" for change in transaction for line in _lines(change, self._book))


def text(transaction: c.Transaction, marks: Marks) -> str:
    """Return one transaction as nft text, with ``marks`` what the kernel has before it; raises as `Writer.text`."""
    return Writer(marks).text(transaction)


def rendered(change: c.SetBase | c.SetService | c.SetInstance) -> str:
    """Return the chains, maps and sets that ``change`` sets, as nft text."""
    match change:
        case c.SetBase(home):
            return _fill("nft/base.nft.j2", home=_name(home, _DIGEST))
        case c.SetService(service):
            return _service(service)
        case c.SetInstance(instance):
            return _instance(instance)


def service_of(change: c.Change) -> str | None:
    """Return the service whose marks a change needs; None where it needs none."""
    match change:
        case c.SetService(service):
            return service.name
        case c.SetInstance(rule):
            return service_of_instance(rule.name)
        case c.DropInstance(name):
            return service_of_instance(name)
        case c.PointSlots() | c.SetTaking() | c.SetPins():
            return change.service
        case _:
            return None


def service_of_instance(name: str) -> str:
    """Return the service of an instance; "" for a name that is no instance's."""
    instance = parse_instance(name)
    return instance.service if instance else ""


def _lines(change: c.Change, book: dict[str, dict[int, str]]) -> Iterator[str]:
    match change:
        case c.SetBase():
            yield rendered(change)
        case c.SetService(service):
            yield rendered(change)
            known = book.get(service.name, {})
            stray = [mark for mark, instance in known.items() if service_of_instance(instance) != service.name]
            yield from _delete(f"instances-{service.name}", [str(mark) for mark in stray])
            for mark in stray:
                del known[mark]
        case c.SetInstance(rule):
            yield rendered(change)
            yield from _set_mark(rule, book.setdefault(service_of_instance(rule.name), {}))
        case c.SetPorts(ranges):
            yield f"flush set {TABLE} ports"
            yield from _add("ports", [f"{low}-{high}" if low != high else str(low) for low, high in sorted(ranges)])
        case c.SetRemotes(marks):
            yield f"flush set {TABLE} remotes"
            yield from _add("remotes", [str(mark) for mark in sorted(marks)])
        case c.SetLimits(limited, free):
            yield from _delete("limits", [str(mark) for mark in sorted(free)])
            yield from _add("limits", [f"{mark} : jump cap_{_name(name)}" for mark, name in limited.items()])
        case c.SetListens(add, remove):
            for name, elements in _by_map(remove).items():
                yield from _delete(name, [key for key, _ in elements])
            for name, elements in _by_map(add).items():
                yield from _add(name, [f"{key} : goto service-{_name(service)}" for key, service in elements])
        case c.PointSlots() | c.SetTaking() | c.SetPins():
            yield from _pointing(change, {name: mark for mark, name in book.get(change.service, {}).items()})
        case c.Detour(name, to):
            yield f"flush chain {TABLE} {_name(name)}"
            yield f"add rule {TABLE} {name} goto {_name(to)}"
        case c.DropInstance(name):
            yield from _unmark(name, book)
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


def _pointing(change: c.PointSlots | c.SetTaking | c.SetPins, mark_of: Mapping[str, int]) -> Iterator[str]:
    """Return the changes of elements that stand for instances."""
    match change:
        case c.PointSlots(service, moves, which):
            name = f"{which}-{_name(service)}"
            yield from _delete(name, [str(slot) for slot, (old, _) in moves.items() if old is not None])
            new = {slot: instance for slot, (_, instance) in moves.items() if instance is not None}
            if which == "overflow":
                yield from _add(name, [f"{slot} : jump try_{_name(instance)}" for slot, instance in new.items()])
            else:
                yield from _add(name, [f"{slot} : {_mark(instance, mark_of)}" for slot, instance in new.items()])
        case c.SetTaking(service, joining, leaving):
            name = f"taking-{_name(service)}"
            yield from _delete(name, [str(_mark(instance, mark_of)) for instance in sorted(leaving)])
            yield from _add(name, [str(_mark(instance, mark_of)) for instance in sorted(joining)])
        case c.SetPins(service, pins, unpinned):
            for family in (4, 6):
                name = f"pins{family}-{_name(service)}"
                yield from _delete(name, _of_family(unpinned, family))
                yield from _add(name, [f"{net} : {_mark(pins[net], mark_of)}" for net in _of_family(pins, family)])


def unmarked(transaction: c.Transaction, marks: Marks) -> str:
    """Return the first half of a transaction that drops instances: nothing leads to their chains any more.

    Before Linux 6.2 a chain cannot be deleted in the transaction that deletes the last element leading to it.
    """
    book = {service: dict(known) for service, known in marks.items()}
    dropped = [change.name for change in transaction if isinstance(change, c.DropInstance)]
    return "".join(f"{line}\n" for name in dropped for line in _unmark(name, book))


def _set_mark(rule: c.InstanceRule, known: dict[int, str]) -> Iterator[str]:
    """Have the instance's mark, and no other, lead to its chain."""
    name = f"instances-{service_of_instance(rule.name)}"
    stale = [mark for mark, instance in known.items() if (mark == rule.mark) != (instance == rule.name)]
    yield from _delete(name, [str(mark) for mark in stale])
    for mark in stale:
        del known[mark]
    if rule.mark not in known:
        known[rule.mark] = rule.name
        yield from _add(name, [f"{rule.mark} : goto {_name(rule.name)}"])


def _unmark(name: str, book: dict[str, dict[int, str]]) -> Iterator[str]:
    """Have no mark lead to an instance's chains."""
    service = service_of_instance(name)
    for where, map_name in ((service, f"instances-{service}"), (LIMIT, "limits")):
        known = book.get(where, {})
        stale = [mark for mark, instance in known.items() if instance == name]
        yield from _delete(map_name, [str(mark) for mark in stale])
        for mark in stale:
            del known[mark]


def _mark(instance: str, mark_of: Mapping[str, int]) -> int:
    if instance.startswith("?"):  # a mark that leads nowhere, as it was read
        return int(instance[1:])
    if _name(instance) not in mark_of:
        words = f"cannot change nftables, nothing was applied: it has no rules of {instance}"
        raise PortfleetError(words, hint="portfleet apply", code=Exit.KERNEL)
    return mark_of[instance]


def _service(rule: c.ServiceRule) -> str:
    name, key = _name(rule.name), rule.affinity
    return _fill(
        "nft/service.nft.j2",
        name=name,
        expressions=expressions(key, seed=rule.seed, slots=rule.slots),
        local_expressions=expressions(key, seed=rule.seed, slots=c.LOCAL_SLOTS),
        pins=[(f"pins4-{name}", "ip saddr", "ip saddr"), (f"pins6-{name}", "ip6 saddr", "ip6 saddr")] * rule.pins,
        sticky=_sticky(name, rule.sticky, key),
        sticky_size=rule.sticky.size if rule.sticky else 0,
        marked=rule.marked,
        remote=rule.remote,
        tries=int(rule.tries),
        empty=rule.empty,
    )


def _instance(rule: c.InstanceRule) -> str:
    service, remote = service_of_instance(_name(rule.name)), rule.remote
    return _fill(
        "nft/instance.nft.j2",
        name=rule.name,
        service=service,
        mark=int(rule.mark),
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
    return fill(template, refused=REFUSED, dropped=DROPPED, **values).lstrip()


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


def _add(name: str, elements: list[str]) -> Iterator[str]:
    if elements:
        yield f"add element {TABLE} {name} {{ {', '.join(elements)} }}"


def _delete(name: str, keys: list[str]) -> Iterator[str]:
    if keys:
        yield f"delete element {TABLE} {name} {{ {', '.join(keys)} }}"
