"""The kinds of values of fleet.toml that name boxes, and the checks of [forward] that take more than one key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from portfleet.config.containers import Sources, Words, dialable
from portfleet.config.kinds import Kind, Schema
from portfleet.config.reader import Reader, key_text
from portfleet.core.errors import Problem
from portfleet.core.forwarding import forwarded
from portfleet.core.model import Fleet, family_of
from portfleet.core.policies import Forward

#: What a chain can be named by, and an inventory.
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
_INTERFACE = r"[A-Za-z0-9_.@-]{1,15}"


class Hosts(Kind):
    """Addresses without a port, each once."""

    words = "list of strings"
    bounds = '"ADDRESS", IPv4 or IPv6'

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        words = Words().read(reader, key, default=None, example=example)
        found: list[str] = []
        for number, text in enumerate(words or ()):
            try:
                address = dialable(text)
            except ValueError:
                reader.wrong(f"{key}[{number}]", f'"{text}" is not an address', f"for example {key} = {example}")
                continue
            if address is None:
                words = f'"{text}" is no address that clients could dial'
                reader.wrong(f"{key}[{number}]", words, f"for example {key} = {example}")
            else:
                found.append(str(address))
        return default if words is None else tuple(dict.fromkeys(found))

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "string", "pattern": "^[0-9A-Fa-f:.]+$"}}


class Boxes(Kind):
    """Boxes by name, each with its own addresses."""

    words = "table of lists of strings"
    bounds = "by a box's name, one IPv4 and one IPv6 address at most; their order counts"

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        table = reader.get(key, dict, "a table", example)
        if table is None:
            return default
        each, found = Reader(f"{reader.path}.{key}", table, reader.problems), {}
        for name in table:
            addresses = Sources().read(each, name, default=(), example='["192.0.2.11", "2001:db8::11"]')
            if not _named(name):
                hint = "use letters, digits, '-', '_' and '.'"
                reader.wrong(f"{key}.{key_text(name)}", f"{json.dumps(name)} is not a name of a box", hint)
            else:
                found[name] = addresses
        return found

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{_NAME}$"},
            "additionalProperties": Sources().schema(),
        }


class BoxNames(Words):
    """Names of boxes."""

    bounds = "keys of boxes"


class Interfaces(Words):
    """Names of network interfaces."""

    bounds = "of letters, digits and -_.@, 15 at most"

    def read(self, reader: Reader, key: str, *, default: Any, example: str) -> Any:
        found = super().read(reader, key, default=default, example=example)
        for number, name in enumerate(found or ()):
            if not re.fullmatch(_INTERFACE, name):
                words = f"{json.dumps(name)} is not a name of an interface"
                reader.wrong(f"{key}[{number}]", words, f"for example {key} = {example}")
                return default
        return found

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": "string", "pattern": f"^{_INTERFACE}$"}}


def check(fleet: Fleet) -> Iterator[Problem]:
    """Yield what is wrong with [forward]."""
    forward = fleet.forward
    if forward == Forward():
        return
    for key in ("addresses", "boxes"):
        if not getattr(forward, key):
            yield Problem(f"forward.{key}", "is missing or empty", "docs/ecmp.md has an example")
    yield from _addresses(forward)
    yield from _states(forward)
    if forward.addresses and not forwarded(fleet):
        words = "no service listens on any of them"
        yield Problem("forward.addresses", words, 'for example listen = [":7000"] in a service')


def _addresses(forward: Forward) -> Iterator[Problem]:
    families, owners = {family_of(address) for address in forward.addresses}, dict[str, str]()
    for name, addresses in forward.boxes.items():
        path = f"forward.boxes.{key_text(name)}"
        for family in sorted(families - {*map(family_of, addresses)}):
            words = f"has no IPv{family} address, to which clients by IPv{family} could be sent on"
            yield Problem(path, words, "add its address on the segment of the boxes")
        for address in addresses:
            if address in forward.addresses:
                words = f"{address} is one of forward.addresses, which every box has"
                yield Problem(path, words, "write the box's own address")
            if (other := owners.setdefault(address, name)) != name:
                yield Problem(path, f"{address} is that of {other}", "write the box's own address")


def _states(forward: Forward) -> Iterator[Problem]:
    states: dict[str, str] = {}
    for state in ("draining", "out", "returning"):
        for name in getattr(forward, state):
            if name not in forward.boxes:
                yield Problem(f"forward.{state}", f"there is no box {name!r}", f"boxes are: {', '.join(forward.boxes)}")
            elif (other := states.setdefault(name, state)) != state:
                yield Problem(f"forward.{state}", f"{name} is in {other} too", "leave it in one of them")
    if forward.boxes and {*forward.boxes} <= {*forward.draining, *forward.out}:
        yield Problem("forward.boxes", "none of them would get new connections", "leave one in")


def _named(name: str) -> bool:
    return re.fullmatch(_NAME, name) is not None
