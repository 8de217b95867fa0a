"""The crash loops that the watcher knows of, kept in run/retries.json: why each, and when it is started again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from portfleet.core.observed import Retry
from portfleet.store import atomic
from portfleet.store.state_file import read_named


def read(path: Path) -> dict[str, Retry]:
    """Return the crash loops by instance; none if there is no file or none that can be read."""
    return read_named(Retry, path)


def write(path: Path, retries: Mapping[str, Retry]) -> None:
    """Replace the crash loops; raise OSError."""
    atomic.replace(path, json.dumps({name: vars(retry) for name, retry in retries.items()}))
