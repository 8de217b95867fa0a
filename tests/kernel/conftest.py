"""What the tests of the rules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.plane import Plane, plane


@pytest.fixture
def rules(tmp_path: Path) -> Iterator[Plane]:
    """A data plane without rules, in boxes of its own."""
    with plane(tmp_path / "rules.json") as made:
        yield made
