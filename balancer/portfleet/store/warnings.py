"""What the watcher warns of at the moment: limits of the machine that are near; kept in run/warnings.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from portfleet.core.value import value
from portfleet.store import atomic
from portfleet.store.state_file import read_list


@value
class Warned:
    """One warning: a name for programs, since when (RFC 3339, UTC), words for people, and the command that helps."""

    name: str
    since: str
    text: str
    hint: str


def read(path: Path) -> list[Warned]:
    """Read the warnings; none if no file can be read."""
    return read_list(Warned, path)


def write(path: Path, warned: Iterable[Warned]) -> None:
    """Replace the warnings; a full disk costs them, nothing else."""
    with suppress(OSError):
        atomic.replace(path, json.dumps([asdict(entry) for entry in warned]))
