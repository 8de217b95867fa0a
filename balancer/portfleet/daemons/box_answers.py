"""What another box says while connections move to it, as checked values; like an instance's answers, it is a claim."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from string import hexdigits
from typing import Any

from portfleet.core.printable import printable
from portfleet.linux.lines import StreamEnded

#: Version of what two boxes say to each other while connections move.
VERSION = 2


def prepared(answer: Mapping[str, Any], families: Collection[int]) -> dict[str, str] | str:
    """Return the other box's address for each of ``families`` (4, 6), by "4" and "6"; or why it has not prepared."""
    found = answer.get("prepared")
    if found is None:
        return f"the other box refuses: {shown(answer.get('refused'))}"
    addresses: dict[str, str] = {}
    for family in map(str, families):
        address = found.get(family) if isinstance(found, dict) else None
        if not isinstance(address, str) or not _is_address(address, family):
            return f"the other box does not say its address: {shown(address)}"
        addresses[family] = address
    return addresses


def known(answer: Mapping[str, Any], count: int) -> list[bool]:
    """Return which of ``count`` connections the other box has. Raises StreamEnded for what is no answer."""
    found = answer.get("known")
    if not isinstance(found, list) or len(found) != count or not all(isinstance(one, bool) for one in found):
        raise StreamEnded(f"the other box does not say what it has: {shown(answer)}")
    return found


def clients(asked: object) -> list[tuple[bytes, int] | None]:
    """Return the clients (address, port) that the other box asks for, None for what it does not know itself."""
    found: list[tuple[bytes, int] | None] = []
    for one in asked if isinstance(asked, list) else ():
        match one:
            case None:
                found.append(None)
            case [str(address), int(port)] if all(digit in hexdigits for digit in address) and len(address) in (8, 32):
                found.append((bytes.fromhex(address), port))
            case _:
                raise StreamEnded(f"the other box asks for what is no client: {shown(one)}")
    return found


def numbers(said: object) -> frozenset[int]:
    """Return the numbers of connections in a batch that the other box says."""
    if not isinstance(said, list) or not all(isinstance(one, int) for one in said):
        raise StreamEnded(f"the other box says what are no numbers: {shown(said)}")
    return frozenset(said)


def shown(value: object) -> str:
    """Return what was said as it can be shown."""
    return printable(value if isinstance(value, str) else repr(value))


def _is_address(text: str, family: str) -> bool:
    """Return whether it is an address of the family, without a zone (RFC 4007), which could be any text."""
    try:
        return "%" not in text and str(ipaddress.ip_address(text).version) == family
    except ValueError:
        return False
