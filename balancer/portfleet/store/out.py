"""The out-set: who is left out, since when and why. Owned by the watcher, kept in run/out.json, read by every writer.

Left out are the ejected, and the new: wanted instances without slots that have not been ready yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from portfleet.core.observed import Out
from portfleet.core.paths import Paths
from portfleet.store import atomic, locks
from portfleet.store.state_file import read_named


def read_out(path: Path) -> dict[str, Out]:
    """Read which instances are ejected; empty if no file can be read."""
    return {name: out for name, out in read_named(Out, path).items() if out.kind != "new"}


def left_out(paths: Paths, slots: Iterable[str | None] = ()) -> dict[str, Out]:
    """Read who is ejected or new by the watcher's word, which counts while it lives.

    A new one that has some of ``slots`` (the kernel's, instance per slot) serves: a command has found it ready since.
    """
    found, pointed = read_named(Out, paths.out) if locks.held(paths.watch_lock) else {}, set(slots)
    return {name: out for name, out in found.items() if out.kind != "new" or name not in pointed}


def write_out(path: Path, out: Mapping[str, Out]) -> None:
    """Replace the out-set; raise OSError."""
    atomic.replace(path, json.dumps({name: vars(entry) for name, entry in out.items()}))
