"""Who may connect to a service, as nft text and read back: sets of ranges, and a chain that comes before all else.

The chain is jumped to from the service's, in the NAT hooks: there a packet still has the port that was dialled, and
only the first of a connection comes by, so that established connections go on. A denial that ends has a time-out in
the kernel, and its end as the comment of its element: the kernel counts down, so the end could not be compared.

How many connections a source has is counted by the kernel (`ct count`, half-open ones too). Each element remembers the
limit it was made with, so the limit is in the set's name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from portfleet.core.access import Access, Range
from portfleet.core.changes import ServiceRule
from portfleet.core.model import Affinity
from portfleet.dataplane.nft.affinity import sources
from portfleet.dataplane.nft.listing import intervals
from portfleet.dataplane.nft.reader import Element
from portfleet.store.templating import fill

KINDS = ("allow4", "allow6", "deny4", "deny6")


def has_chain(rule: ServiceRule) -> bool:
    """Return whether a service by ``rule`` asks who connects."""
    return rule.filters or rule.per_source > 0


def parts(rule: ServiceRule) -> set[str]:
    """Return the sets and the chain that ``rule`` needs."""
    found = {f"{kind}-{rule.name}" for kind in KINDS} if rule.filters else set()
    found |= {name for name, _, _ in _counted(rule)}
    return found | {f"access_{rule.name}"} if has_chain(rule) else found


def rendered(rule: ServiceRule) -> str:
    """Return the chain and the sets of ``rule``; "" if it needs none."""
    if not has_chain(rule):
        return ""
    return fill(
        "nft/access.nft.j2",
        name=rule.name,
        filters=rule.filters,
        allows=rule.allows,
        limit=int(rule.per_source),
        counted=_counted(rule),
    ).lstrip()


def lines(table: str, service: str, access: Access, *, now: float) -> Iterator[str]:
    """Return the commands that make the sets of ``service`` what ``access`` says at the Unix time ``now``."""
    for kind, ranges in (("allow", access.allow), ("deny", access.deny)):
        for family in (4, 6):
            name = f"{kind}{family}-{service}"
            yield f"flush set {table} {name}"
            if elements := [_element(one, now) for one in ranges if _lasts(one, now) and _family(one) == family]:
                yield f"add element {table} {name} {{ {', '.join(elements)} }}"


def read(elements: dict[str, list[Element]]) -> Access:
    """Return what the elements of a service's sets say; ``elements`` has them by `KINDS`."""
    return Access(
        allow=tuple(r for kind in ("allow4", "allow6") for r in _ranges(kind, elements[kind])),
        deny=tuple(r for kind in ("deny4", "deny6") for r in _ranges(kind, elements[kind])),
    )


def _counted(rule: ServiceRule) -> list[tuple[str, str, str]]:
    """Return (set, its key's type, key) of both families; a source is what the affinity takes for one."""
    if not rule.per_source:
        return []
    four, six = sources(rule.affinity if rule.affinity.kind == "source" else Affinity("source"))
    names = (f"sources{family}-{rule.per_source}-{rule.name}" for family in (4, 6))
    return list(zip(names, ("ip saddr", "ip6 saddr"), (four, six), strict=True))


def _element(one: Range, now: float) -> str:
    first, last = ipaddress.ip_address(one.first), ipaddress.ip_address(one.last)
    text = f"{first}" if first == last else f"{first}-{last}"
    if one.until is None:
        return text
    return f'{text} timeout {_duration(one.until - now)} comment "{int(one.until)}"'


def _duration(seconds: float) -> str:
    """Return a duration as nft reads it; of seconds alone nft 1.0.6 takes less than ten years."""
    rest, milliseconds = divmod(max(1, round(seconds * 1000)), 1000)
    days, rest = divmod(rest, 86_400)
    return f"{days}d{rest}s{milliseconds}ms"


def _lasts(one: Range, now: float) -> bool:
    return one.until is None or one.until > now


def _family(one: Range) -> int:
    return 6 if ":" in one.first else 4


def _ranges(kind: str, elements: Iterable[Element]) -> Iterator[Range]:
    make = ipaddress.IPv4Address if kind.endswith("4") else ipaddress.IPv6Address
    for first, last, element in intervals(elements):
        # One that another program added with a time-out has none: it is never what was set.
        until = int(element.comment) if element.comment.isdecimal() else -1 if element.seconds else None
        yield Range(str(make(first)), str(make(last)), until)
