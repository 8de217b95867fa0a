"""What was set, beside the digest of what the kernel made of it: a file of JSON lines, the last of a name counts.

Appended to, so that a change of one service among 1,000 writes one service; a line that a crash tore is a line not
written, and its rules are simply set again. After an upgrade of this tool the same rule may be written otherwise: each
entry has a digest of its text too, compared when the files that make the text are not those it was made by.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from portfleet.core import changes as c
from portfleet.core import typed
from portfleet.dataplane.nft.base import SetBase
from portfleet.store import atomic, state_file, templating

#: A change that sets chains.
Setting = SetBase | c.SetService | c.SetInstance
#: Lines for each name before the file is written anew.
_STALE = 4


class Memory:
    """The changes that were made, by unit (see ``nft_listing.unit_of``), with their digests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[int, int] | None = None
        self._entries: dict[str, dict[str, Any]] = {}
        self._made: dict[str, Setting] = {}
        self._lines = 0

    def same(self, name: str, digest: str) -> bool:
        """Return whether what the kernel has is what was set."""
        return self._recall().get(name, {}).get("digest") == digest

    def current(self, name: str) -> bool:
        """Return whether what was set is what this version of the tool would set for the same rule."""
        entry = self._recall().get(name)
        if entry is None:
            return False
        try:
            return bool(entry["by"] == writer() or entry["text"] == _digest(_rendered(self._made[name])))
        except ValueError:  # a damaged file: no rule can have such a name
            return False

    def renew(self, digests: Mapping[str, str]) -> None:
        """Note that the units in ``digests`` are as this version of the tool would set them."""
        known = self._recall()
        if old := [name for name in digests if known[name]["by"] != writer()]:
            self._append({name: known[name] | {"by": writer()} for name in old})

    def rule(self, name: str) -> c.ServiceRule | c.InstanceRule | None:
        """Return the rule that was set last for a unit; None if there is none."""
        change = self._made[name] if name in self._recall() else None
        return None if change is None or isinstance(change, SetBase) else change.rule

    def rules(self) -> dict[str, c.ServiceRule | c.InstanceRule]:
        """Return the rules that were set last, by unit."""
        self._recall()
        return {name: change.rule for name, change in self._made.items() if not isinstance(change, SetBase)}

    def note(self, made: Mapping[str, Setting], digests: Mapping[str, str]) -> None:
        """Remember ``made`` by unit with the digests the kernel gives them now."""
        known = self._recall()
        fresh = {}
        for name, change in made.items():
            if name in digests:
                entry = {
                    "made": json.loads(json.dumps(asdict(change))),
                    "digest": digests[name],
                    "text": _digest(_rendered(change)),
                    "by": writer(),
                }
                if known.get(name) != entry:
                    fresh[name] = entry
        if fresh:
            self._append(fresh)

    def replace(self, digests: Mapping[str, str]) -> None:
        """Note that the units in ``digests``, set as they are remembered, are in the kernel in that form now."""
        known = self._recall()
        if changed := {name: digest for name, digest in digests.items() if known[name]["digest"] != digest}:
            self._append({name: known[name] | {"digest": digest} for name, digest in changed.items()})

    def _append(self, fresh: Mapping[str, dict[str, Any]]) -> None:
        """Write entries down. The kernel has the change already: what a full disk does not take is set once more."""
        self._entries |= fresh
        self._made |= {name: _change(name, entry) for name, entry in fresh.items()}
        with suppress(OSError):
            self._write(fresh)
            self._read = self.stamp()

    def _write(self, fresh: Mapping[str, dict[str, Any]]) -> None:
        if self._lines > 64 + _STALE * len(self._entries):
            atomic.write(self.path, (json.dumps(self._entries) + "\n").encode())
            self._lines = len(self._entries)
            return
        appending = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(appending, "w") as file:
            file.write(json.dumps(fresh) + "\n")
        self._lines += len(fresh)

    def _recall(self) -> dict[str, dict[str, Any]]:
        stamp = self.stamp()
        if stamp == self._read:
            return self._entries
        self._entries, self._made, self._lines, self._read = {}, {}, 0, stamp
        try:
            text = self.path.read_text()
        except (OSError, UnicodeDecodeError):
            return self._entries
        for line in text.splitlines():
            found, made = _entries(line)
            self._entries |= found
            self._made |= made
            self._lines += len(found)
        return self._entries

    def stamp(self) -> tuple[int, int] | None:
        """Return what differs after each change of the file; None if there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size


@cache
def writer() -> str:
    """Return what tells one version of what makes the text from another."""
    modules = [Path(__file__).with_name(name) for name in ("text.py", "affinity.py")]
    files = [*sorted((templating.DIRECTORY / "nft").glob("*.j2")), *modules]
    return _digest("".join(file.read_text() for file in files))


def _rendered(change: Setting) -> str:
    from portfleet.dataplane.nft.text import rendered  # not for `status`

    return rendered(change)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _entries(line: str) -> tuple[dict[str, dict[str, Any]], dict[str, Setting]]:
    """Read one line, and the changes that its entries tell; nothing of one that is torn, or another version's."""
    try:
        found = state_file.parse(line)
        made = {name: _change(name, entry) for name, entry in found.items()}
        if not all(isinstance(entry[key], str) for entry in found.values() for key in ("digest", "text", "by")):
            return {}, {}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}, {}
    return dict(found), made


def _change(name: str, entry: Mapping[str, Any]) -> Setting:
    """Return the change that made a unit; raise ValueError, TypeError or KeyError for an entry of another form."""
    made = entry["made"]
    if "home" in made:
        return typed.read(SetBase, made, where=name)
    if name.startswith("service-"):
        return typed.read(c.SetService, made, where=name)
    if "mark" not in (rule := made["rule"]):
        return typed.read(c.SetInstance, made, where=name)
    rule = dict(rule)
    rule["number"] = rule.pop("mark", rule.get("number"))  # as the version before wrote it
    return typed.read(c.SetInstance, made | {"rule": rule}, where=name)
