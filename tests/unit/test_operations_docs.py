"""The runbook has a section for every operation, and says of options what the command line has."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from portfleet.commands import VERBS
from portfleet.core.operations import VERBS as WORKS

_SECTIONS = dict(
    re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", Path("docs/operations.md").read_text(), re.MULTILINE | re.DOTALL)
)
_GENERAL = Path("docs/operations.md").read_text().partition("\n## drain")[0]
_OPERATIONS = sorted(
    path.stem
    for path in Path("balancer/portfleet/commands").glob("*.py")
    if re.search("add_(change_|wait_)?options", path.read_text()) or path.stem in ("maint", "lock", "history")
)


def options(verb: str) -> set[str]:
    """Return the long options of a verb."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"portfleet.commands.{verb}").add_arguments(parser)
    return {name for action in parser._actions for name in action.option_strings if name.startswith("--")} - {"--help"}


def test_what_counts_as_an_operation_is_complete() -> None:
    at_once = {"pin", "unpin", "cancel", "history", "lock", "import"}  # nothing of them is left to the watcher
    assert WORKS.keys() - {"migrate-live"} | {"evacuate"} | at_once == set(_OPERATIONS)
    assert set(_OPERATIONS) <= VERBS.keys()


@pytest.mark.parametrize("verb", _OPERATIONS)
def test_every_verb_has_a_section_that_agrees_with_its_help(verb: str) -> None:
    section = _SECTIONS[verb]
    said = set(re.findall(r"(?<![\w-])--[a-z0-9-]+", section))
    own = options(verb)
    missing = {option for option in own if option not in section and option not in _GENERAL}
    assert missing == set()
    others = set().union(*(options(other) for other in _OPERATIONS))
    assert said <= others | {"--json"}, said - others
