"""The out-set: who is ejected, since when and why. Owned by the watcher, kept in run/out.json, read by every writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Out:
    """Why an instance is out: its process died or its probes failed; ``since`` is RFC 3339 in UTC."""

    kind: Literal["died", "probe"]
    since: str
    reason: str


def read(path: Path) -> dict[str, Out]:
    """Read the out-set; empty where there is no file or none that can be read."""
    try:
        return {name: Out(**out) for name, out in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write(path: Path, out: Mapping[str, Out]) -> None:
    """Replace the out-set. Not synced to disk: run/ does not outlive a reboot, and neither do the processes."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({name: asdict(entry) for name, entry in out.items()}))
    temporary.replace(path)
