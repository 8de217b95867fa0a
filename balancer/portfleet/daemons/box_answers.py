"""What another box says while connections move to it, as checked values; like an instance's answers, it is a claim."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Any

from portfleet.core.printable import printable


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


def shown(value: object) -> str:
    """Return what was said as it can be shown."""
    return printable(value if isinstance(value, str) else repr(value))


def _is_address(text: str, family: str) -> bool:
    """Return whether it is an address of the family, without a zone (RFC 4007), which could be any text."""
    try:
        return "%" not in text and str(ipaddress.ip_address(text).version) == family
    except ValueError:
        return False
