"""Who may connect to a service: what is allowed and denied, as ranges of addresses that do not overlap. Pure.

A data plane's sets hold each address once, so where networks overlap the denial that lasts longest decides.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from portfleet.core.pins import parse
from portfleet.core.value import value

#: Of a denial without an end: later than any Unix time.
_NEVER = 1 << 62


@value
class Range:
    """Addresses of one family, ``first`` … ``last``; ``until`` (Unix time, whole seconds) or for good."""

    first: str
    last: str
    until: int | None = None

    def networks(self) -> Iterator[str]:
        """Return the networks that make up the range."""
        ends = (ipaddress.ip_address(self.first), ipaddress.ip_address(self.last))
        yield from map(str, ipaddress.summarize_address_range(*ends))


@value
class Access:
    """``deny``: who is refused; ``allow``: who is not refused if there are any. Sorted, IPv4 first, no overlaps."""

    allow: tuple[Range, ...] = ()
    deny: tuple[Range, ...] = ()


def access(allow: Iterable[str], deny: Mapping[str, int | None], *, now: float) -> Access:
    """Return the access by the networks ``allow`` and ``deny`` {network: Unix time of its end, None for never}."""
    lasting = {network: until for network, until in deny.items() if until is None or until > now}
    return Access(allow=_flat(dict.fromkeys(allow)), deny=_flat(lasting))


def _flat(networks: Mapping[str, int | None]) -> tuple[Range, ...]:
    """Return ranges that do not overlap.

    Two networks lie apart or one in the other, so that a stack tells which ones an address is in.
    """
    parsed = ((parse(text), _NEVER if until is None else until) for text, until in networks.items())
    order = sorted((n.version, int(n[0]), -int(n[-1]), until) for n, until in parsed)
    found: list[tuple[int, int, int, int]] = []
    for version in (4, 6):
        within: list[tuple[int, int]] = []
        at = 0

        def close(last: int, until: int, version: int = version) -> None:
            nonlocal at
            if at <= last:
                found.append((version, at, last, until))
            at = last + 1

        for _, first, minus_last, until in (one for one in order if one[0] == version):
            while within and within[-1][0] < first:
                close(*within.pop())
            if within and until <= within[-1][1]:
                continue  # the wider one lasts longer
            if within:
                close(first - 1, within[-1][1])
            at = first
            within.append((-minus_last, until))
        while within:
            close(*within.pop())
    return tuple(_joined(found))


def _joined(found: list[tuple[int, int, int, int]]) -> Iterator[Range]:
    """Return the ranges with neighbours that end together as one."""
    held: Range | None = None
    end = (0, 0)
    for version, first, last, until in found:
        kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        ends = None if until == _NEVER else until
        if held is not None and (version, first) == end and held.until == ends:
            held = replace(held, last=str(kind(last)))
        else:
            if held is not None:
                yield held
            held = Range(str(kind(first)), str(kind(last)), ends)
        end = (version, last + 1)
    if held is not None:
        yield held
