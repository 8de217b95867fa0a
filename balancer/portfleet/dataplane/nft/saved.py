"""Rulesets that were saved with our tables in them, by `nft list ruleset > /etc/nftables.conf`.

The keeper belongs to the watcher's socket, so a file that holds it cannot be loaded while the watcher lives: nft
refuses all of the file, and nftables.service, which has flushed the rules before, leaves the box without any firewall.
Our own table in it is out of date at the next boot. Why the keeper is owned all the same: docs/decisions/0015.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from portfleet.dataplane.interface import Hazard

#: Where Debian's and Red Hat's nftables.service read from.
FILES = ("/etc/nftables.conf", "/etc/sysconfig/nftables.conf")
_OURS = re.compile(r"^\s*(?:add\s+|create\s+)?table\s+inet\s+(portfleet(?:-keeper)?)\b", re.MULTILINE)
_INCLUDE = re.compile(r'^\s*include\s+"([^"]+)"', re.MULTILINE)
_DEPTH = 8


def remedy(path: str) -> str:
    """Return the command that takes our tables out of a saved ruleset."""
    return rf"sed -i '/^table inet portfleet\(-keeper\)\? {{/,/^}}/d' {path} && nft -c -f {path}"


class SavedRules:
    """Looks for our tables in saved rulesets; a file is read again when it has changed."""

    def __init__(self, files: Iterable[str] = FILES) -> None:
        self._files = tuple(files)
        self._known: dict[str, tuple[tuple[int, int, int], str]] = {}

    def with_ours(self) -> list[str]:
        """Return the files that hold a table of ours."""
        return [path for path in dict.fromkeys(self._all()) if _OURS.search(self._text(path))]

    def hazards(self) -> Iterator[Hazard]:
        """Return the files that hold a table of ours, with the command that takes it out."""
        for path in self.with_ours():
            yield Hazard(
                f"saved:{path}",
                f"{path} holds tables of portfleet: nftables.service cannot load it, and no firewall is left then",
                remedy(path),
            )

    def _all(self) -> Iterator[str]:
        """Return the files and what they include."""
        waiting = [(path, 0) for path in self._files]
        while waiting:
            path, depth = waiting.pop(0)
            yield path
            if depth < _DEPTH:
                for pattern in _INCLUDE.findall(self._text(path)):
                    place = Path(pattern) if pattern.startswith("/") else Path("/etc", pattern)
                    waiting += [(str(found), depth + 1) for found in sorted(place.parent.glob(place.name))]

    def _text(self, path: str) -> str:
        try:
            seen = Path(path).stat()
            stamp = (seen.st_mtime_ns, seen.st_size, seen.st_ino)
            if self._known.get(path, (None, ""))[0] != stamp:
                self._known[path] = (stamp, Path(path).read_text(errors="replace"))
        except OSError:
            return ""
        return self._known[path][1]
