"""Packets sent on to the box of their client's slot: netdev ingress and `fwd`, tables beside the fleet's own.

``netdev portfleet-forward`` stays when the fleet is down: a balancer serves the other boxes then. It sees packets
before conntrack and sockets do, and keeps no state. Two rules beside the slots:

- A packet from another box is for this one, which is not to send it on again: that box has its reasons, and two that do
  not agree for a moment would send it to and fro. The other boxes' hardware addresses are kept in ``senders`` (see
  `linux.neighbours`).
- An ICMP error goes to the box that has the connection, by the header in it: path MTU discovery works.

``ip`` and ``ip6 portfleet-forward`` are there while this box is draining, out or returning: what conntrack does not
know may be a connection that began on another box, or is to begin there. That one gets a copy (nft(8), dup statement);
this box drops it. What begins a connection comes this way too, so that conntrack lets go of an ended one from the same
address and port: otherwise the packets of the new one would be taken for those of the old.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from portfleet.core import forwarding as core
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.model import Affinity, Fleet, family_of
from portfleet.core.pins import Address
from portfleet.core.slots import Table
from portfleet.dataplane.nft.affinity import expressions, inner_expression, slot_for
from portfleet.dataplane.nft.context import NftContext
from portfleet.dataplane.nft.reader import NftReader
from portfleet.linux import neighbours, routes
from portfleet.store.templating import fill

TABLE = "portfleet-forward"
_MAIN = f"netdev {TABLE}"
_IP = {4: "ip", 6: "ip6"}
#: The table's comment, which says of what rules and slots it was made.
_DIGEST = re.compile(r'comment "by ([0-9a-f]{16})"')
_SENT_ON = re.compile(r'fwd ip6? to (\S+) device "([^"]+)"')
_FAMILIES = ("netdev", *_IP.values())
#: Seconds that other boxes have to say their hardware addresses, before what they pass on could go back to them.
_ANSWER = 1.0
#: Stands for the digest in the text that it is of.
_NOT_YET = "0" * 16


@dataclass(frozen=True)
class Way:
    """How a box is reached by one family."""

    ip: str
    address: Address
    device: str


@dataclass(frozen=True)
class _Known:
    """What was loaded, to see whether it is there as it was."""

    devices: Mapping[str, int]
    generation: int
    listed: str


class NftForwarding:
    """nftables (see `Forwarding`)."""

    def __init__(self) -> None:
        self._nft = NftContext()
        self._generation = NftReader(TABLE).generation
        self._loaded: _Known | None = None
        self._ways: tuple[Way, ...] = ()
        self._devices: set[str] = set()
        self._senders: frozenset[str] = frozenset()

    def own(self, fleet: Fleet) -> str | None:
        every = {address for addresses in fleet.forward.boxes.values() for address in addresses}
        return core.own(fleet.forward, {one: routes.is_local(ipaddress.ip_address(one)) for one in every})

    def box_of(self, fleet: Fleet, service: str, address: Address, port: int | None) -> str | None:
        found = next((one.affinity for one in core.forwarded(fleet) if one.service == service), None)
        if found is None or (found.kind == "connection" and port is None):
            return None
        slot = slot_for(found, address, port, seed=core.SEED, slots=fleet.forward.slots)
        return None if slot is None else core.starts(fleet.forward)[slot]

    def text(self, fleet: Fleet) -> str:
        here = self.own(fleet)
        return rendered(fleet, here, _ways(fleet, here), frozenset())

    def load(self, fleet: Fleet) -> None:
        here = self.own(fleet)
        ways = _ways(fleet, here)
        self._ways = tuple(way for some in ways.values() for way in some)
        self._devices = {*_devices(fleet, ways), *(way.device for way in self._ways)}
        self._manage()
        self._senders = self._macs()
        before = self._generation()
        lines = [f"delete table {table}" for table in self._tables()]
        self._nft.do("\n".join([*lines, rendered(fleet, here, ways, self._senders)]))
        self._note(before)

    def loaded(self) -> str:
        shown = self._nft.show(f"list table {_MAIN}") or ""
        found = _DIGEST.search(shown)
        return found[1] if found else ""

    def digest(self, fleet: Fleet) -> str:
        found = _DIGEST.search(self.text(fleet))
        return found[1] if found else ""

    def holds(self) -> bool:
        known = self._loaded
        if known is None or known.devices != _interfaces(known.devices):
            return False
        generation = self._generation()
        if generation == known.generation:
            return True
        if self._listed() != known.listed:
            return False
        self._loaded = replace(known, generation=generation)  # a change to other tables
        return True

    def follow(self) -> None:
        found = frozenset(mac for address, mac in neighbours.known().items() if address in self._addresses())
        if self._loaded is None or found <= self._senders:
            return
        self._nft.do(f"add element {_MAIN} senders {{ {', '.join(sorted(found - self._senders))} }}\n")
        self._senders |= found
        self._note(self._loaded.generation)

    def remove(self) -> None:
        found = _SENT_ON.findall(self._nft.show(f"list table {_MAIN}") or "")
        if tables := self._tables():
            self._nft.do("".join(f"delete table {table}\n" for table in tables))
        neighbours.forget((ipaddress.ip_address(address), device) for address, device in found)
        self._loaded = None

    def _manage(self) -> None:
        try:
            neighbours.manage((way.address, way.device) for way in self._ways)
        except OSError as error:
            words = f"the kernel does not keep the boxes' hardware addresses known: {error.strerror}"
            raise PortfleetError(words, hint="run as root; Linux 5.16 or later", code=Exit.KERNEL) from None

    def _macs(self) -> frozenset[str]:
        """Return the hardware addresses of the other boxes, as far as they have said them within a second."""
        wanted, deadline = self._addresses(), time.monotonic() + _ANSWER
        while wanted - neighbours.known().keys() and time.monotonic() < deadline:
            time.sleep(0.02)
        return frozenset(mac for address, mac in neighbours.known().items() if address in wanted)

    def _addresses(self) -> set[Address]:
        return {way.address for way in self._ways}

    def _tables(self) -> list[str]:
        # Not by `list tables`: the JSON of nft 1.0.6 is broken if a table has an owner, as the watcher's has.
        return [f"{family} {TABLE}" for family in _FAMILIES if self._nft.show(f"list table {family} {TABLE}")]

    def _note(self, before: int) -> None:
        """Note what is there now, as it is right, unless a change by others has followed ours to ``before``."""
        listed = self._listed()
        ours = self._generation() == before + 1
        self._loaded = _Known(_interfaces(self._devices), before + 1, listed) if ours else None

    def _listed(self) -> str:
        found = [self._nft.ask(f"list table {table}") for table in self._tables()]
        return json.dumps(_without_handles(found), sort_keys=True)


def rendered(fleet: Fleet, here: str | None, ways: Mapping[str, tuple[Way, ...]], senders: frozenset[str]) -> str:
    """Return the tables as nft text for the box ``here``; ``ways`` says how each other box is reached."""
    forward = fleet.forward
    passes = core.passes(forward, here) if here else None
    found = core.forwarded(fleet)
    numbers = sorted({*map(family_of, forward.addresses)})
    families = [_family(number, found, forward.slots) for number in numbers]
    boxes = [{"name": name, "ways": some} for name, some in ways.items()]
    values = {
        "table": TABLE,
        "digest": _NOT_YET,
        "families": families,
        "boxes": boxes,
        "devices": _devices(fleet, ways),
        "passes": passes,
        "begins": here in forward.returning,
    }
    lines = [fill("nft/forward.nft.j2", **values)]
    lines += _add(_MAIN, "ways", _verdicts(core.ways(forward), here))
    for number in numbers:
        lines += _add(_MAIN, f"addresses{number}", [one for one in forward.addresses if family_of(one) == number])
        dialled = [one for one in found if family_of(one.address) == number]
        lines += _add(_MAIN, f"services{number}", [f"{_key(one)} : goto {_chain(one)}-{number}" for one in dialled])
        if passes:
            beside = f"{_IP[number]} {TABLE}"
            lines += _add(beside, "services", [f"{_key(one)} : goto {_chain(one)}" for one in dialled])
            lines += _add(beside, "passes", _verdicts(passes, here))
    text = "\n".join(lines)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    known = _add(_MAIN, "senders", sorted(senders))
    return "\n".join([text.replace(_NOT_YET, digest, 1), *known]) + "\n"


def _family(number: int, found: tuple[core.Forwarded, ...], slots: int) -> dict[str, Any]:
    dialled = [one for one in found if family_of(one.address) == number]

    def hashed(affinity: Affinity) -> str:
        return expressions(affinity, seed=core.SEED, slots=slots)[number == 6]

    def inner(affinity: Affinity) -> str:
        return inner_expression(affinity, number, seed=core.SEED, slots=slots)

    return {
        "number": number,
        "ip": _IP[number],
        "services": [
            {"name": name, "hash": hashed(affinity)}
            for name, affinity in {_chain(one): one.affinity for one in dialled}.items()
        ],
        "dialled": [{"address": one.address, "port": one.port, "inner": inner(one.affinity)} for one in dialled],
        "rest": hashed(Affinity("source")),
    }


def _ways(fleet: Fleet, here: str | None) -> dict[str, tuple[Way, ...]]:
    """Return how each other box is reached; raise PortfleetError for one that is not on a segment of this box."""
    families = {*map(family_of, fleet.forward.addresses)}
    return {
        name: tuple(_way(name, address) for address in addresses if family_of(address) in families)
        for name, addresses in fleet.forward.boxes.items()
        if name != here
    }


def _way(name: str, text: str) -> Way:
    address = ipaddress.ip_address(text)
    device = routes.neighbour_by(address)
    if device is None:
        words = f"{name} ({text}) is not on a segment of this box: packets cannot be sent on to it as frames"
        raise PortfleetError(words, hint="ip route get " + text)
    return Way(_IP[address.version], address, device)


def _devices(fleet: Fleet, ways: Mapping[str, tuple[Way, ...]]) -> list[str]:
    """Return the interfaces by which clients' packets come."""
    return sorted({*fleet.forward.devices} or {way.device for some in ways.values() for way in some})


def _verdicts(slots: Table, here: str | None) -> list[str]:
    there = {name: "accept" if name == here else f"goto to-{name}" for name in {*slots} if name is not None}
    return [f"{slot} : {there[name]}" for slot, name in enumerate(slots) if name is not None]


def _chain(one: core.Forwarded) -> str:
    return f"service-{one.service}"


def _key(one: core.Forwarded) -> str:
    return f"{one.address} . {one.port}"


def _add(table: str, name: str, elements: list[str]) -> list[str]:
    return [f"add element {table} {name} {{ {', '.join(elements)} }}"] if elements else []


def _interfaces(names: Iterable[str]) -> dict[str, int]:
    """Return the numbers of interfaces by name; one that is made anew has another, and lacks our chain."""
    there = {name: number for number, name in socket.if_nameindex()}
    return {name: there.get(name, 0) for name in names}


def _without_handles(found: list[Mapping[str, Any] | None]) -> list[list[dict[str, Any]]]:
    parts = list[list[dict[str, Any]]]()
    for one in found:
        entries = [entry for entry in (one or {}).get("nftables", ()) if "metainfo" not in entry]
        for entry in entries:
            for body in entry.values():
                body.pop("handle", None)
        parts.append(entries)
    return parts
