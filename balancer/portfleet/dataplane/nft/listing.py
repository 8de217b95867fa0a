"""What `NftReader` reads, as the values of ``changes``: elements of maps, and rules of a lost journal."""

from __future__ import annotations

import ipaddress
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from portfleet.core.changes import InstanceRule
from portfleet.core.model import Listen
from portfleet.dataplane.nft.reader import Chain, Element
from portfleet.linux.netlink import attributes, members

_HOME = re.compile(rb"portfleet ([0-9a-f]+)\0")
_NAME, _DATA = 1, 2  # of an expression
_HASH_MODULUS, _HASH_SEED = 4, 5
_IMMEDIATE_DATA, _VALUE = 2, 1


def unit_of(chain: str) -> str:
    """Return the name under which ``chain`` is set: ``try_X`` goes with ``X``, ``local_X`` with ``service-X``."""
    kind, _, of = chain.partition("_")
    if kind in ("try", "cap", "over") and of:
        return of
    return f"service-{of}" if kind in ("local", "overflow", "full", "access") and of else chain


def digests(chains: Mapping[str, Chain]) -> dict[str, str]:
    """Return {unit: digest} of all its chains together."""
    units: dict[str, str] = {}
    for name in sorted(chains):
        unit = unit_of(name)
        units[unit] = f"{units[unit]} {chains[name].digest}" if unit in units else chains[name].digest
    return units


def home_of(chains: Mapping[str, Chain]) -> str:
    """Return the identity of the fleet that made the table; "" if the table does not say."""
    for rule in chains["guard"].rules if "guard" in chains else ():
        if found := _HOME.search(rule):
            return found[1].decode()
    return ""


def numbers(elements: Iterable[Element]) -> dict[int, str]:
    """Return {number: instance} of the map of a service's instances; "?" for a verdict that is not ours."""
    return {number(element.key): element.chain or "?" for element in elements}


def number(data: bytes) -> int:
    """Return a register's number."""
    return int.from_bytes(data, sys.byteorder)


def listens(name: str, elements: Iterable[Element]) -> Iterator[tuple[Listen, str]]:
    """Return (listen address of one family, service) of every element of the map ``name``."""
    family: Literal[4, 6] = 6 if name.endswith("6") else 4
    for element in elements:
        service = (element.chain or "?").removeprefix("service-")
        if name.startswith("local"):
            yield Listen(int.from_bytes(element.key[:2], "big"), None, (family,)), service
        else:
            yield _address(element.key, family), service


def remotes(elements: Iterable[Element], *, six: bool) -> Iterator[tuple[Listen, str | None]]:
    """Return (address, source address that its connections get) of a set or map of remote instances; None in a set."""
    size = 16 if six else 4
    for element in elements:
        source = None if element.data is None else str(ipaddress.ip_address(element.data[:size]))
        yield _address(element.key, 6 if six else 4), source


def _address(key: bytes, family: Literal[4, 6]) -> Listen:
    """Read a concatenation of an address and a port."""
    size = 4 if family == 4 else 16
    address = str(ipaddress.ip_address(key[:size]))
    return Listen(int.from_bytes(key[size : size + 2], "big"), address, (family,))


def intervals(elements: Iterable[Element]) -> Iterator[tuple[int, int, Element]]:
    """Return (first, last, first element) of every interval of a set or map with intervals."""
    ordered = sorted(elements, key=lambda element: (element.key, not element.end))
    first: Element | None = None
    for element in ordered:
        if first is not None:
            yield int.from_bytes(first.key, "big"), int.from_bytes(element.key, "big") - 1, first
        first = None if element.end else element
    if first is not None:  # to the end of all keys
        yield int.from_bytes(first.key, "big"), (1 << 8 * len(first.key)) - 1, first


def ranges(elements: Iterable[Element]) -> frozenset[tuple[int, int]]:
    """Return the port ranges of a set, inclusive."""
    return frozenset((first, last) for first, last, _ in intervals(elements))


def networks(elements: Iterable[Element], *, six: bool) -> Iterator[tuple[str, int]]:
    """Return (network, number) of every element of a map of pins."""
    kind = ipaddress.IPv6Address if six else ipaddress.IPv4Address
    for first, last, element in intervals(elements):
        for network in ipaddress.summarize_address_range(kind(first), kind(last)):
            yield str(network), number(element.data or b"")


def instance_rule(name: str, own: int | None, chain: Chain) -> InstanceRule | None:
    """Read an instance's port out of its chain, for a lost journal: 0 if it is not there; None without a number."""
    port = 0
    for kind, data in _expressions(chain):
        if kind == "immediate":
            value = attributes(attributes(data).get(_IMMEDIATE_DATA, b"")).get(_VALUE, b"")
            if len(value) == 2:  # a number or an address is longer
                port = struct.unpack("!H", value)[0]
    return InstanceRule(name, own, port) if own is not None else None


def seed_and_slots(chain: Chain) -> tuple[int, int] | None:
    """Read a service's seed and number of slots out of its chain, for a lost journal; None if it hashes nothing."""
    for kind, data in _expressions(chain):
        found = attributes(data)
        if kind == "hash" and _HASH_MODULUS in found:
            return int.from_bytes(found.get(_HASH_SEED, b""), "big"), int.from_bytes(found[_HASH_MODULUS], "big")
    return None


def _expressions(chain: Chain) -> Iterator[tuple[str, bytes]]:
    for rule in chain.rules:
        for _, body in members(rule):
            found = attributes(body)
            yield found.get(_NAME, b"").rstrip(b"\0").decode(errors="replace"), found.get(_DATA, b"")
