"""Fixtures of tests in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from support.fake_kills import Make
from support.fake_operated import Box


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return an empty directory in memory, where an fsync costs nothing."""
    with TemporaryDirectory(dir="/dev/shm") as found:
        yield Path(found)


@pytest.fixture
def box(directory: Path) -> Box:
    """Return a box with a fleet of three that have 5, 7 and 3 connections."""
    return Box(directory, blue_1=5, blue_2=7, blue_3=3)


@pytest.fixture
def again() -> Iterator[Make]:
    """Return what makes the box of ``box`` anew each time."""
    with ExitStack() as stack:

        def make() -> Box:
            found = stack.enter_context(TemporaryDirectory(dir="/dev/shm"))
            return Box(Path(found), blue_1=5, blue_2=7, blue_3=3)

        yield make
