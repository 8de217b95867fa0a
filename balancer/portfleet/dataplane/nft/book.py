"""What nftables has of the instances: which number leads to which chain, whose connections get a limit or a new source.

A `Book` is read before a transaction is written, and brought up to what the transaction will have set while it is. The
functions here return the lines that change it; `text` writes the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from portfleet.core import changes as c
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Listen, parse_instance
from portfleet.core.slots import Table
from portfleet.dataplane.nft.diversions import Diverted, diverting
from portfleet.dataplane.nft.sides import SideTables

TABLE = "inet portfleet"


@dataclass
class Book:
    """What the kernel has, as far as transactions need to know it, and what was written since.

    ``listens`` are the addresses that clients dial, one entry a family; ``numbers``: {service: {number: instance}};
    ``diverted``: {service: {number: the one that gets its new connections}}; ``limits``: {port: instance} of those with
    a limit, ``kept``: the ports of them that are in order though no service has them any more; ``remotes``: {address:
    source} of the remote instances whose connections get another source address, None for this box's own
    (masquerading); ``elsewhere``: {name: (address, source)} of the remote instances, with "" for a source that stays;
    ``slots`` and ``sides`` by service; ``now`` is a Unix time.
    """

    listens: set[Listen] = field(default_factory=set)
    numbers: dict[str, dict[int, str]] = field(default_factory=dict)
    diverted: dict[str, Diverted] = field(default_factory=dict)
    limits: dict[int, str] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    remotes: dict[Listen, str | None] = field(default_factory=dict)
    elsewhere: dict[str, tuple[Listen, str | None]] = field(default_factory=dict)
    slots: dict[str, Table] = field(default_factory=dict)
    sides: dict[str, SideTables] = field(default_factory=dict)
    now: float = 0.0

    @property
    def stray_limits(self) -> list[int]:
        """The ports that are counted for an instance that is not there, or not on that port."""
        there = {name for known in self.numbers.values() for name in known.values()}
        return [port for port, name in self.limits.items() if name not in there and port not in self.kept]

    @property
    def sources(self) -> dict[Listen, str | None]:
        """What ``remotes`` is to be."""
        return {remote: source for remote, source in self.elsewhere.values() if source != ""}

    @property
    def stray_remotes(self) -> bool:
        """Whether connections get another source address for no instance."""
        return not self.remotes.keys() <= self.sources.keys()


def service_of_instance(name: str) -> str:
    """Return the service of an instance; "" for a name that is no instance's."""
    instance = parse_instance(name)
    return instance.service if instance else ""


def service_of(change: c.Change) -> str | None:
    """Return the service whose numbers a change needs; None if it needs none."""
    match change:
        case c.SetService(service):
            return service.name
        case c.SetInstance(rule):
            return service_of_instance(rule.name)
        case c.DropInstance(name) | c.Divert(name):
            return service_of_instance(name)
        case c.Route(rule):
            return rule.name
        case _:
            return None


def handle(number: int) -> str:
    """Return an instance's number as a packet's priority is written: a traffic-control handle, in hex.

    0:0, which nft prints as "none", belongs to none: numbers begin with 1.
    """
    return f"{number >> 16:x}:{number & 0xFFFF:x}"


def without_rules(instance: str) -> PortfleetError:
    """Return the error of a change that needs rules which are not there."""
    words = f"cannot change nftables, nothing was applied: it has no rules of {instance}"
    return PortfleetError(words, hint="portfleet apply", code=Exit.KERNEL)


def divert(name: str, to: str, book: Book) -> Iterator[str]:
    """Have the new connections of an instance come to another one of its service."""
    service = service_of_instance(name)
    numbers = {instance: number for number, instance in book.numbers.get(service, {}).items()}
    for instance in (name, to):
        if instance not in numbers:
            raise without_rules(instance)
    try:
        changed = diverting(book.diverted.get(service, {}), numbers[name], numbers[to])
    except ValueError as error:
        words = f"cannot change nftables, nothing was applied: {error}: {name} is to lead to {to}"
        raise PortfleetError(words, hint="portfleet doctor", code=Exit.KERNEL) from None
    yield from _set_diverted(service, changed, book)


def set_instance(rule: c.InstanceRule, book: Book) -> Iterator[str]:
    """Have the instance's number, and no other, lead to its chain; have it counted and given a source by its rule."""
    service = service_of_instance(rule.name)
    known, name = book.numbers.setdefault(service, {}), f"instances-{service}"
    stale = [number for number, instance in known.items() if (number == rule.number) != (instance == rule.name)]
    yield from _set_diverted(service, dict.fromkeys(_led(stale, service, book), rule.number), book)
    yield from _end_diversions(service, [*stale, rule.number], book)
    yield from _forget_numbers(service, stale, book)
    if rule.number not in known:
        known[rule.number] = rule.name
        yield from add(name, [f"{handle(rule.number)} : goto {rule.name}"])
    right = {rule.port} if rule.limit and book.limits.get(rule.port) == rule.name else set()
    mine = {port for port, instance in book.limits.items() if instance == rule.name or port == rule.port}
    yield from _forget_limits(mine - right, book)
    if rule.limit and not right:
        book.limits[rule.port] = rule.name
        yield from add("limits", [f"{rule.port} : jump cap_{rule.name}"])
    _note_tried(rule.name, rule.overflows, book)
    book.elsewhere.pop(rule.name, None)
    if rule.remote is not None:
        book.elsewhere[rule.name] = (rule.remote, rule.snat)
    yield from _settle_remotes(book)


def drop_instance(name: str, book: Book) -> Iterator[str]:
    """Have nothing lead to an instance's chains."""
    service = service_of_instance(name)
    mine = [number for number, instance in book.numbers.get(service, {}).items() if instance == name]
    yield from _end_diversions(service, [*_led(mine, service, book), *mine], book)
    yield from _forget_numbers(service, mine, book)
    yield from _forget_limits([port for port, limited in book.limits.items() if limited == name], book)
    _note_tried(name, False, book)
    if book.elsewhere.pop(name, None):
        yield from _settle_remotes(book)


def set_listens(opened: Iterable[Listen], closed: Iterable[Listen], book: Book) -> Iterator[str]:
    """Have the ports of exactly the open addresses looked at for packets of connections that conntrack forgot."""
    listens = book.listens - by_family(closed) | by_family(opened)
    before, after = ({listen.port for listen in some} for some in (book.listens, listens))
    yield from delete("listened", [str(port) for port in sorted(before - after)])
    yield from add("listened", [str(port) for port in sorted(after - before)])
    book.listens = listens


def by_family(listens: Iterable[Listen]) -> set[Listen]:
    """Return ``listens`` with one entry a family."""
    return {replace(listen, families=(family,)) for listen in listens for family in listen.families}


def drop_strays(book: Book, service: str | None = None) -> Iterator[str]:
    """Have no number of ``service`` lead to another's instance; without it, none be counted or given a source stray."""
    if service is None:
        yield from _forget_limits(book.stray_limits, book)
        yield from _settle_remotes(book)
        return
    known = book.numbers.get(service, {})
    strays = [number for number, name in known.items() if service_of_instance(name) != service]
    led = [n for n, to in book.diverted.get(service, {}).items() if {n, to} - known.keys() or to in strays]
    yield from _end_diversions(service, [*led, *strays], book)
    yield from _forget_numbers(service, strays, book)


def add(name: str, elements: list[str]) -> Iterator[str]:
    """Return the line that adds ``elements`` to a set or map; none if there are none."""
    if elements:
        yield f"add element {TABLE} {name} {{ {', '.join(elements)} }}"


def delete(name: str, keys: list[str]) -> Iterator[str]:
    """Return the line that deletes the elements ``keys``; none if there are none."""
    if keys:
        yield f"delete element {TABLE} {name} {{ {', '.join(keys)} }}"


def _note_tried(name: str, tried: bool, book: Book) -> None:
    """Note whether an instance has a chain for overflow from now on."""
    if (now := book.sides.get(service_of_instance(name))) is not None:
        book.sides[service_of_instance(name)] = replace(now, tried=now.tried - {name} | ({name} if tried else set()))


def _set_diverted(service: str, changed: Diverted, book: Book) -> Iterator[str]:
    now, name = book.diverted.get(service, {}), f"diverted-{service}"
    yield from delete(name, [handle(number) for number in changed if number in now])
    yield from add(name, [f"{handle(number)} : {handle(to)}" for number, to in changed.items()])
    book.diverted[service] = {**now, **changed}


def _led(numbers: Collection[int], service: str, book: Book) -> list[int]:
    """Return whose new connections come to one of ``numbers``."""
    return [number for number, to in book.diverted.get(service, {}).items() if to in numbers]


def _end_diversions(service: str, numbers: Iterable[int], book: Book) -> Iterator[str]:
    now = book.diverted.get(service, {})
    ended = sorted(now.keys() & set(numbers))
    yield from delete(f"diverted-{service}", [handle(number) for number in ended])
    book.diverted[service] = {number: to for number, to in now.items() if number not in ended}


def _forget_numbers(service: str, numbers: list[int], book: Book) -> Iterator[str]:
    yield from delete(f"instances-{service}", [handle(number) for number in numbers])
    for number in numbers:
        del book.numbers[service][number]


def _forget_limits(ports: Iterable[int], book: Book) -> Iterator[str]:
    gone = sorted(ports)
    yield from delete("limits", [str(port) for port in gone])
    for port in gone:
        del book.limits[port]


def _settle_remotes(book: Book) -> Iterator[str]:
    """Have exactly the connections of remote instances that are to get another source address get it."""
    needed = book.sources
    for family in (4, 6):
        for name, takes in ((f"remotes{family}", _masqueraded), (f"sources{family}", _translated)):
            gone, new = (
                sorted(pair for pair in some if family in pair[0].families and takes(pair[1]))
                for some in (book.remotes.items() - needed.items(), needed.items() - book.remotes.items())
            )
            yield from delete(name, [_endpoint(remote) for remote, _ in gone])
            yield from add(name, [_endpoint(remote) + (f" : {source}" if source else "") for remote, source in new])
    book.remotes = needed


def _masqueraded(source: str | None) -> bool:
    return source is None


def _translated(source: str | None) -> bool:
    return source is not None


def _endpoint(remote: Listen) -> str:
    return f"{remote.address} . {remote.port}"
