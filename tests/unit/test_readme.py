"""What the README shows; that its links and blocks are true is for all pages alike (test_docs)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [
    line[2:].split("#")[0].strip() for block in blocks("console") for line in block.splitlines() if line[:2] == "$ "
]


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) > 10
    assert len(blocks("toml")) == 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("script/")])
def test_each_script_is_there_and_can_be_run(command: str) -> None:
    assert (TOP / command.split(maxsplit=1)[0]).stat().st_mode & 0o111


def test_installing_takes_four_lines() -> None:
    install = README.split("## Install")[1].split("\n## ")[0]
    assert install.count("\n$ ") == 4 and "apt install ./portfleet_" in install


def test_no_sample_runs_an_open_service_as_root() -> None:
    for text in blocks("toml"):
        for service in tomllib.loads(text)["service"].values():
            assert service["command"][0] == "portfleet-daemon" or (
                "user" in service and "127.0.0.1" in service["listen"][0]
            )
