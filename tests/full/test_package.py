"""The Debian package on a machine with nothing: installed, used, upgraded with connections open, removed, purged."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("debootstrap"), reason="script/setup --roots installs debootstrap"),
]


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_from_installation_to_purge(suite: str) -> None:
    command = [str(Path(__file__).parents[2] / "script/package"), "--try", suite]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    print(done.stdout, done.stderr)

    assert done.returncode == 0
    assert " 0 lost, releases ['v1', 'v2']" in done.stdout
    assert done.stdout.rstrip().endswith("purged: nothing is left")
