"""The small JSON files of run/: whoever reads one goes by what fits, and a damaged one says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from portfleet.core import typed

T = TypeVar("T")


def parse(text: str | bytes) -> Any:
    """Return JSON values; raise ValueError for anything else, also for lists within lists without end."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists within lists too deep") from None


def read_named(kind: type[T], path: Path) -> dict[str, T]:
    """Return {name: value} of the dataclass ``kind``; empty if there is no such file or it is damaged."""
    try:
        found = parse(path.read_bytes())
        return {name: typed.read(kind, entry, where=name) for name, entry in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def read_list(kind: type[T], path: Path) -> list[T]:
    """Return values of the dataclass ``kind``; none if there is no such file or it is damaged."""
    try:
        found = parse(path.read_bytes())
        return [typed.read(kind, entry, where="entry") for entry in (found if isinstance(found, list) else [])]
    except (OSError, ValueError):
        return []
