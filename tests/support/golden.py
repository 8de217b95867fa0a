"""Texts that were read and agreed to, word for word, in tests/unit/golden."""

from __future__ import annotations

import os
from pathlib import Path

_GOLDEN = Path(__file__).parents[1] / "unit/golden"


def compare(name: str, found: str) -> None:
    """Compare ``found`` with the golden file ``name``, or write that where the environment asks for it."""
    path = _GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.write_text(found)
    assert found == path.read_text()
