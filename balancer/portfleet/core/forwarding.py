"""Which box a client's packets belong to, where several boxes share the service's addresses.

Every box has the same table of slots, which point at boxes, and sends a packet on to the box of its client's slot. The
table follows from `[forward]` alone, so boxes with the same fleet.toml have the same one: each box in its order takes
its share from those before it, with the fewest moves. While the last of them is out, its slots are with those from
which it took them; otherwise who is out decides alone, as for instances (`core.slots`).

The packets of a slot go to its box by `ways`, unless it is out. While it is draining or returning, some of them are of
connections that began elsewhere, and nothing in a packet tells which: that box passes on what it does not know, by
`passes`, and while it is draining what begins a connection too. So only that box itself needs to know that it is
draining or returning; each step in the order in, draining, out, draining, returning, in finds every connection, also
while some boxes have taken it already and others have not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from portfleet.core import typed
from portfleet.core.model import Affinity, Fleet, Listen, Service, family_of, seed_of
from portfleet.core.policies import Forward
from portfleet.core.slots import Table, assign, effective
from portfleet.core.value import value

#: What decides for random kinds of affinity: a connection must reach the same box with every packet.
_BY_CONNECTION = Affinity("connection")
#: Of the hash; another one than that of any service, or a box's clients would fall on few of its instances.
SEED = seed_of("[forward]")


@value
class Forwarded:
    """A service whose clients are sent on: ``port`` of ``address`` by ``affinity``, in one family."""

    service: str
    address: str
    port: int
    affinity: Affinity


def ways(forward: Forward) -> Table:
    """Return where the slots point: the box that gets their packets first."""
    return _without(forward, forward.out)


def starts(forward: Forward) -> Table:
    """Return who gets the connections that begin."""
    return _without(forward, {*forward.draining, *forward.out})


def passes(forward: Forward, box: str) -> Table | None:
    """Return where ``box`` passes on packets of connections that it does not know; None if it keeps them.

    A box that is returning keeps those that begin a connection.
    """
    if box not in (*forward.draining, *forward.out, *forward.returning):
        return None
    return _without(forward, {*forward.draining, *forward.out, box})


def own(forward: Forward, is_local: Mapping[str, bool]) -> str | None:
    """Return the box that this one is by its addresses; None if slots cannot point at it: a balancer alone."""
    found = (name for name, addresses in forward.boxes.items() if any(is_local[address] for address in addresses))
    return next(found, None)


def forwarded(fleet: Fleet) -> tuple[Forwarded, ...]:
    """Return what is sent on by a service's affinity; everything else to the addresses goes by the client's address."""
    return tuple(
        Forwarded(service.name, address, listen.port, _lasting(service))
        for service in fleet.services.values()
        for listen in service.listen
        for address in fleet.forward.addresses
        if _takes(listen, address)
    )


def told(forward: Forward) -> dict[str, Any]:
    """Return what decides the boxes' table as JSON values; {} if nothing is sent on."""
    names = ("addresses", "draining", "out", "returning", "slots")
    found = {name: typed.write(getattr(forward, name)) for name in names}
    return found | {"boxes": [[name, *own] for name, own in forward.boxes.items()]} if forward.boxes else {}


def checksum(forward: Forward) -> str:
    """Return a checksum of what decides the boxes' table: 16 hexadecimal digits of SHA-256; "" if nothing does."""
    found = told(forward)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16] if found else ""


def _lasting(service: Service) -> Affinity:
    return service.affinity if service.affinity.deterministic else _BY_CONNECTION


def _takes(listen: Listen, address: str) -> bool:
    return family_of(address) in listen.families and listen.address in (None, address)


def _without(forward: Forward, out: Collection[str]) -> Table:
    names = tuple(forward.boxes)
    serving = [name for name in names if name not in out]
    home, before = _home(names, forward.slots), _home(names[:-1], forward.slots)
    return effective(home, dict.fromkeys(names, 1), serving, before)


@cache
def _home(names: tuple[str, ...], slots: int) -> Table:
    """Return the table in which each box has taken its share from those before it."""
    table: Table = (None,) * slots
    for number in range(len(names)):
        table = assign(table, dict.fromkeys(names[: number + 1], 1))
    return table
