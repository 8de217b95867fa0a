"""The systemd unit: how exposed systemd itself finds it, with what hardens it and without."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from portfleet.store.templating import DIRECTORY

#: What was added where it costs nothing.
_HARDENING = re.compile(r"^(UMask|PrivateMounts|ProtectProc|SystemCallFilter|SystemCallErrorNumber)=.*\n", re.MULTILINE)


def exposure(text: str, folder: Path) -> float:
    """Return the overall exposure of a unit (0 to 10, systemd-analyze(1))."""
    path = folder / "portfleet-shown.service"
    path.write_text(re.sub(r"^(ExecStart(?:Post)?|ExecReload|ExecStop)=.*", r"\1=/bin/true", text, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Overall exposure level for .*: ([0-9.]+) ", done.stdout)
    assert found, done
    return float(found[1])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_exposed_as_little_as_the_page_says(tmp_path: Path) -> None:
    """By systemd 252; other versions weigh a little differently."""
    unit = (DIRECTORY / "system" / "portfleet.service").read_text()
    assert len(_HARDENING.findall(unit)) == 5
    after, before = exposure(unit, tmp_path), exposure(_HARDENING.sub("", unit), tmp_path)
    print(f"{after} with what hardens it, {before} without")
    assert after < 3.6 and after < before - 1
