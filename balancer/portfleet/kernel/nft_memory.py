"""What was set, beside the digest of what the kernel made of it: a file of JSON lines, the last of a name counts.

Appended to, so that a change of one service among 1,000 writes one service; a line that a crash tore is a line not
written, and its rules are simply set again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from portfleet import atomic
from portfleet.kernel import changes as c
from portfleet.model import Affinity, Listen

#: Lines for each name before the file is written anew.
_STALE = 4


class Memory:
    """The rules that were set, by unit (see ``nft_listing.unit_of``), with their digests."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, int] | None = None
        self._entries: dict[str, dict[str, Any]] = {}
        self._lines = 0

    def same(self, name: str, digest: str) -> bool:
        """True where what the kernel has is what was set."""
        return self._recall().get(name, {}).get("digest") == digest

    def rule(self, name: str) -> c.ServiceRule | c.InstanceRule | None:
        """Give the rule that was set last for a unit; None where there is none."""
        entry = self._recall().get(name)
        if entry is None or entry["rule"] is None:
            return None
        return self.service(name) if name.startswith("service-") else self.instance(name)

    def service(self, name: str) -> c.ServiceRule:
        """Give the rule of the unit ``name``, which must be the `same`."""
        data = self._recall()[name]["rule"]
        return c.ServiceRule(**(data | {"affinity": Affinity(**data["affinity"]), "sticky": _sticky(data)}))

    def instance(self, name: str) -> c.InstanceRule:
        """Give the rule of the unit ``name``, which must be the `same`."""
        data = self._recall()[name]["rule"]
        remote, key = data["remote"], data["key"]
        if remote:
            remote = Listen(remote["port"], remote["address"], tuple(remote["families"]))
        return c.InstanceRule(
            **(data | {"remote": remote, "sticky": _sticky(data), "key": Affinity(**key) if key else None})
        )

    def note(self, rules: Mapping[str, c.ServiceRule | c.InstanceRule | None], digests: Mapping[str, str]) -> None:
        """Remember ``rules`` by unit with the digests the kernel gives them now."""
        known = self._recall()
        fresh = {
            name: {"rule": asdict(rule) if rule else None, "digest": digests[name]}
            for name, rule in rules.items()
            if name in digests
        }
        fresh = {name: entry for name, entry in fresh.items() if known.get(name) != json.loads(json.dumps(entry))}
        if fresh:
            self._append(fresh)

    def _append(self, fresh: Mapping[str, dict[str, Any]]) -> None:
        self._entries |= json.loads(json.dumps(fresh))
        line = json.dumps(fresh) + "\n"
        if self._lines > 64 + _STALE * len(self._entries):
            atomic.write(self._path, (json.dumps(self._entries) + "\n").encode(), mode=0o600)
            self._lines = len(self._entries)
        else:
            with self._path.open("a") as file:
                self._path.chmod(0o600)
                file.write(line)
            self._lines += len(fresh)
        self._read = self._stamp()

    def _recall(self) -> dict[str, dict[str, Any]]:
        stamp = self._stamp()
        if stamp == self._read:
            return self._entries
        self._entries, self._lines, self._read = {}, 0, stamp
        try:
            text = self._path.read_text()
        except (OSError, UnicodeDecodeError):
            return self._entries
        for line in text.splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and all(isinstance(entry, dict) for entry in found.values()):
                self._entries |= found
                self._lines += len(found)
        return self._entries

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size


def _sticky(data: dict[str, Any]) -> c.Sticky | None:
    return c.Sticky(**data["sticky"]) if data["sticky"] else None
