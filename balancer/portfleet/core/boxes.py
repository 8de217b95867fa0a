"""Boxes by name: which there are, by an inventory, and what a verb that works on several of them exits with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.printable import printable

#: What ssh takes for a user and a host, without anything that a shell, ssh's own config or its options give a meaning.
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_ADDRESS6 = r"[0-9A-Fa-f:][0-9A-Fa-f:.]*(?:%[A-Za-z0-9_.-]+)?"
_TO = re.compile(rf"(?:{_USER}@)?(?:{_HOST}|{_ADDRESS6})|ssh://(?:{_USER}@)?{_HOST}(?::[0-9]{{1,5}})?")
#: Exit codes of boxes from the best to the worst; one that cannot be told may hide any other, so it is worse than all.
_WORSE = (Exit.DONE, Exit.DEGRADED, Exit.UNWATCHED, Exit.UNSERVED)


@dataclass(frozen=True)
class Box:
    """A box as people call it, and as ssh understands it: HOST, USER@HOST, ssh://USER@HOST:PORT, an alias."""

    name: str
    to: str


def destination(text: str) -> str:
    """Return ``text`` if ssh can only take it for a box; raise PortfleetError otherwise."""
    if len(text) > 255 or not _TO.fullmatch(text):
        raise PortfleetError(
            f"{printable(text)!r} is no name of a box",
            hint="give HOST or USER@HOST, as ssh understands it",
            code=Exit.USAGE,
        )
    return text


def inventory(text: str, *, source: str, group: str | None = None) -> tuple[Box, ...]:
    """Return the boxes that a text names, in its order: one a line, or as `ansible-inventory --list` prints them.

    Of Ansible's, only those of ``group``. Raises PortfleetError, which names ``source``, if it names none.
    """
    try:
        if text.lstrip().startswith("{"):
            found = list(_ansible(text, group))
        elif group is not None:
            raise ValueError("only what `ansible-inventory --list` prints has groups")
        else:
            lines = (line.partition("#")[0].strip() for line in text.splitlines())
            found = [Box(line, destination(line)) for line in lines if line]
    except (ValueError, RecursionError) as error:
        raise PortfleetError(f"cannot read {source}: {error}", hint="write one box a line", code=Exit.USAGE) from None
    except PortfleetError as error:
        raise PortfleetError(f"cannot read {source}: {error.message}", hint=error.hint, code=Exit.USAGE) from None
    boxes = tuple(dict.fromkeys(found))
    if not boxes:
        raise PortfleetError(f"{source} names no box", hint="write one box a line", code=Exit.USAGE)
    return boxes


def worst(codes: Iterable[Exit]) -> Exit:
    """Return the worst of boxes' exit codes."""
    return max(codes, key=lambda code: (_WORSE.index(code) if code in _WORSE else len(_WORSE), code), default=Exit.DONE)


def _ansible(text: str, group: str | None) -> Iterator[Box]:
    data = json.loads(text)
    facts = data.get("_meta", {})
    about = facts.get("hostvars", {}) if isinstance(facts, dict) else {}
    if not isinstance(about, dict):
        raise ValueError("_meta.hostvars is no object")
    if group is not None and group not in data:
        raise ValueError(f"there is no group {printable(group)}")
    for name in _hosts(data, group or "all", set()):
        found = about.get(name, {})
        if not isinstance(found, dict):
            raise ValueError(f"the variables of {printable(name)} are no object")
        yield Box(printable(name), _reached(name, found))


def _hosts(data: Mapping[str, Any], group: str, seen: set[str]) -> Iterator[str]:
    """Yield the hosts of a group and of the groups below it."""
    if group in seen:
        return
    seen.add(group)
    found = data.get(group, {})
    hosts, children = (found.get(key, []) if isinstance(found, dict) else None for key in ("hosts", "children"))
    if not all(isinstance(many, list) and all(isinstance(one, str) for one in many) for many in (hosts, children)):
        raise ValueError(f"the group {printable(group)} is no object with lists of names")
    yield from hosts or ()
    for child in children or ():
        yield from _hosts(data, child, seen)


def _reached(name: str, about: Mapping[str, Any]) -> str:
    """Return how ssh reaches a host of Ansible's by its variables."""
    host, user, port = about.get("ansible_host", name), about.get("ansible_user"), about.get("ansible_port")
    who = f"{user}@" if user is not None else ""
    if port in (None, 22):
        return destination(f"{who}{host}")
    if ":" in str(host):  # ssh 9.2 takes no address in brackets
        raise ValueError(f"{printable(name)} has an IPv6 address and a port: name it in ssh_config instead")
    return destination(f"ssh://{who}{host}:{port}")
