"""The pages: links lead to headings that are there, blocks are true, 20 tasks are two links from the README."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from portfleet.__main__ import parse
from portfleet.commands import VERBS
from portfleet.config.load import load
from portfleet.config.settings import TABLES
from portfleet.core.errors import Exit
from portfleet.linux.machine import read_machine

TOP = Path(__file__).parents[2]
README = TOP / "README.md"
PAGES = [README, TOP / "CONTRIBUTING.md", TOP / "benchmarks/README.md", *sorted(TOP.glob("docs/**/*.md"))]
_CODE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^    .*$", "", _CODE.sub("", page.read_text()), flags=re.MULTILINE)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield (page, text) of every block in ``language``."""
    for page in PAGES:
        for _, kind, text in _CODE.findall(page.read_text()):
            if kind == language:
                yield page.name, text


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def links(page: Path) -> list[tuple[Path, str]]:
    """Return (page, anchor) of every link to a place in the checkout."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"https?:", link):
            path, _, anchor = link.partition("#")
            found.append(((page.parent / path).resolve() if path else page, anchor))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_each_link_leads_to_a_heading_that_is_there(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {target.name}#{anchor}"


@pytest.mark.parametrize(("page", "text"), [*blocks("toml")])
def test_each_config_loads(page: str, text: str) -> None:
    here = read_machine()
    machine = replace(
        here, find=lambda command: f"/usr/bin/{command}", has_path=lambda _: True, has_user=lambda _: True,
        is_root=True, descriptors=1 << 20,
    )  # fmt: skip
    assert load(text.encode(), machine, source=page).services


@pytest.mark.parametrize(("page", "text"), [*blocks("python")])
def test_each_program_is_one(page: str, text: str) -> None:
    ast.parse(text, page)


COMMANDS = sorted(
    {
        (page, line[2:])
        for page, text in blocks("console")
        for line in text.splitlines()
        if line.startswith("$ portfleet ")
    }
)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_each_command_is_one_the_tool_takes(page: str, line: str) -> None:
    words = shlex.split(re.split(r" (?:\||>|&&) | &$", line)[0], comments=True)
    assert parse(words[1:])[1] is not None


@pytest.mark.parametrize("verb", VERBS)
def test_the_index_has_every_verb(verb: str) -> None:
    section = (TOP / "docs/README.md").read_text().split("## By verb")[1]
    assert f"[{verb}](" in section


def test_json_md_has_every_exit_code() -> None:
    section = (TOP / "docs/json.md").read_text().split("## Exit codes")[1].split("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d) ", section, re.MULTILINE)} == set(Exit)


#: What an operator looks up, with the page and heading that has it.
TASKS = {
    "install": "install.md#debian-package",
    "start at boot": "install.md#start-at-boot",
    "every key": "configuration.md",
    "release layout": "releases.md#a-typical-tree",
    "nginx": "recipes.md#nginx",
    "secrets": "releases.md#secrets",
    "meaning of ejected": "troubleshooting.md#an-instance-is-ejected",
    "exit codes": "json.md#exit-codes",
    "JSON": "json.md#json",
    "a hung daemon": "troubleshooting.md#a-daemon-hangs",
    "client address": "recipes.md#the-clients-address",
    "local clients": "recipes.md#clients-on-this-box",
    "firewall": "network.md#firewalls",
    "logs": "operations.md#logs",
    "upgrade": "install.md#upgrade",
    "uninstall": "install.md#uninstall",
    "two boxes": "recipes.md#two-boxes",
    "metrics": "recipes.md#metrics",
    "limits": "limits.md",
    "what a release costs redis": "releases.md#what-a-release-costs",
    # what came later
    "events": "events.md",
    "the page": "page.md",
    "a fleet without root": "haproxy.md",
    "a standby pair": "ha.md#a-standby-pair",
    "live migration": "ha.md#live-migration",
    "environment_file": "configuration.md#environment_file",
    "files": "configuration.md#files",
    "signal": "operations.md#signal",
    "http probes": "configuration.md#probehttp",
    "exec probes": "configuration.md#probeexec",
    "apply --undo": "operations.md#apply",
    "export": "operations.md#export",
    "import": "operations.md#import",
}


@pytest.mark.parametrize(("task", "place"), TASKS.items())
def test_what_is_looked_up_is_two_links_from_the_readme(task: str, place: str) -> None:
    path, _, anchor = place.partition("#")
    page = (TOP / "docs" / path).resolve()
    first = links(README)
    second = [link for target, _ in first if target.suffix == ".md" for link in links(target)]
    assert anchor == "" or anchor in anchors(page)
    assert any(target == page and heading in ("", anchor) for target, heading in first + second)
    # by its name in the index, or as a page that the README names
    assert (page, anchor) in second or any(target == page for target, _ in first)


def test_the_reference_has_every_key() -> None:
    text = (TOP / "docs/configuration.md").read_text()
    assert all(f"{one.key}\n" in text for table in TABLES for one in table.settings)
