"""The journal on disk: read, written atomically, and set aside when it is damaged."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

from portfleet.core.errors import PortfleetError
from portfleet.core.journal import VERSION, Journal, JournalError, from_json, to_json
from portfleet.store import atomic


def read(path: Path) -> Journal | None:
    """Read the journal; None where there is none yet. Raises JournalError for a damaged one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PortfleetError(f"cannot read {path}: {error.strerror}", hint="run as root") from None
    try:
        content = json.loads(data)
    except ValueError as error:
        raise JournalError(f"the journal is damaged ({error})") from None
    if isinstance(content, dict) and isinstance(content.get("version"), int) and content["version"] > VERSION:
        raise PortfleetError(
            f"cannot use {path}: it was written by a newer portfleet (version {content['version']}, known {VERSION})",
            hint="install the newer portfleet again; the old one does not guess",
        )
    return from_json(content)


def write(path: Path, journal: Journal) -> None:
    """Write the journal; raises PortfleetError, with the old journal still in place."""
    try:
        atomic.write(path, json.dumps(to_json(journal), separators=(",", ":")).encode(), mode=0o600)
    except OSError as error:
        raise PortfleetError(
            f"cannot write {path}: {error.strerror}", hint="free space or rights there; nothing else was changed"
        ) from None


def update(path: Path, change: Callable[[Journal], Journal]) -> Journal:
    """Read, change and write the journal as one, under a lock of its own: many may work on different services.

    Gives the journal written. A change that changes nothing writes nothing. Raises PortfleetError.
    """
    with path.with_suffix(".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = read(path) or Journal()
        after = change(before)
        if after != before:
            write(path, after)
        return after


def set_aside(path: Path) -> Path:
    """Rename a damaged journal so that it can be looked at, and give its new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside
