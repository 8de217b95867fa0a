"""Who stands in for whom: in each service's map `diverted` numbers of instances lead to those of others. Pure.

A packet's number passes that map before its chain is looked for. An entry leads to a number, not to a chain: when
something new leads to a chain, the kernel looks for loops through all of the table (nft_chain_validate), which takes it
8 ms with 1,000 services.
"""

from __future__ import annotations

from collections.abc import Mapping

#: {number of an instance: that of the one which gets its new connections}.
Diverted = Mapping[int, int]


def diverting(now: Diverted, number: int, to: int) -> dict[int, int]:
    """Return the entries that change for the clients of ``number`` to come to ``to``.

    No entry leads to a number that has one itself, as a packet passes the map once: who was led to ``number`` is led on
    with it, and where ``to`` is diverted itself, all come to its stand-in. Raise ValueError for diversions in a ring.
    """
    end = now.get(to, to)
    if end == number:
        raise ValueError("diversions in a ring")
    led = [one for one, other in now.items() if other == number]
    return {one: end for one in (*led, number) if now.get(one) != end}
