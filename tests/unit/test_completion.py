"""bash completes verbs, options, services and instances, by the script that `portfleet completion` prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from portfleet.commands import VERBS
from support.fleets import ECHO

BIN = Path(sys.executable).parent


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with one service of four instances a colour."""
    (tmp_path / "fleet.toml").write_text(ECHO)
    return tmp_path


def complete(home: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of ``words``."""
    line = " ".join(f"'{word}'" for word in ("portfleet", *words))
    script = f"""source <(portfleet completion); COMP_WORDS=({line}); COMP_CWORD={len(words)}
    _portfleet; printf '%s\\n' "${{COMPREPLY[@]}}" """
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PORTFLEET_HOME": str(home)}
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()


def test_every_verb(home: Path) -> None:
    assert complete(home, "") == [*VERBS, "--version"]
    assert complete(home, "stat") == ["status"]


def test_options_of_the_verb(home: Path) -> None:
    assert complete(home, "plan", "--t") == ["--text"]
    assert complete(home, "--json", "cutover", "--can") == ["--canary"]
    assert complete(home, "status", "--j") == ["--json"]
    assert complete(home, "init", "--j") == []


def test_services_and_instances(home: Path) -> None:
    assert complete(home, "drain", "echo/echo-b") == [f"echo/echo-blue-{number}" for number in (1, 2, 3, 4)]
    (home / "fleet.toml").write_text("not TOML")
    assert complete(home, "drain", "e") == []
