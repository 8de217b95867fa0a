"""ruff and mypy have nothing to say. They work while other tests wait, which takes no longer than those alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.mark.early
@pytest.mark.parametrize("words", ["mypy", "ruff check .", "ruff format --check ."])
def test_the_sources_are_clean(words: str) -> None:
    command, *arguments = words.split()
    program = Path(sys.executable).with_name(command)
    done = subprocess.run([program, *arguments], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}:\n{done.stdout}{done.stderr}"
