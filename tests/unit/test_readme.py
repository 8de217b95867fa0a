"""What the README shows is true of the tool: its commands parse, its configs load, its files are there."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from portfleet.__main__ import parse
from portfleet.config.load import load
from portfleet.linux.machine import read_machine

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


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("portfleet ")])
def test_each_command_is_one_the_tool_takes(command: str) -> None:
    options, _ = parse(shlex.split(command)[1:])
    assert options is not None


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("portfleet ")])
def test_each_script_is_there_and_can_be_run(command: str) -> None:
    assert (TOP / command).stat().st_mode & 0o111


@pytest.mark.parametrize("text", blocks("toml"))
def test_each_config_loads(text: str) -> None:
    machine = replace(read_machine(), find=lambda command: f"/usr/bin/{command}")
    assert load(text.encode(), machine, source="README").services


def test_each_link_leads_to_a_file() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (TOP / link).exists(), link
