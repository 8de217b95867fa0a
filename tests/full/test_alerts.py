"""The alerts by Prometheus' own tool: their syntax, and when each fires."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.full
_TOP = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "words", [("check", "rules", "docs/alerts.yml"), ("test", "rules", "tests/full/alerts.test.yml")]
)
def test_promtool_is_content(words: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *words], cwd=_TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "SUCCESS" in done.stdout + done.stderr, done.stdout + done.stderr
