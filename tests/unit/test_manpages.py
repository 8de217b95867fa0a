"""The manual pages are made of the same words as --help and the reference, and roff has nothing against them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from manpages import pages
from portfleet.commands import VERBS
from portfleet.config.settings import TABLES
from portfleet_daemon.settings import make_parser

PAGES = pages()


def plain(name: str) -> str:
    """Return a page's words as they are typed."""
    return re.sub(r"\\f[BR]", "", PAGES[name]).replace("\\-", "-").replace("\\e", "\\")


def test_there_is_a_page_for_each_program_verb_and_file() -> None:
    assert PAGES.keys() == {"portfleet.1", "portfleet-daemon.1", "fleet.toml.5", *(f"portfleet-{v}.1" for v in VERBS)}


@pytest.mark.parametrize("verb", VERBS)
def test_the_first_page_names_every_verb(verb: str) -> None:
    assert f"portfleet {verb}\n{VERBS[verb]}\n" in plain("portfleet.1")


def test_every_key_has_its_place() -> None:
    for table in TABLES:
        section = plain("fleet.toml.5").split(f".SH [{table.path}]\n")[1].split("\n.SH")[0]
        assert [one.key for one in table.settings] == re.findall(r"^\.TP\n(\w+) = ", section, re.MULTILINE)


def test_every_flag_of_the_daemon() -> None:
    flags = [name for action in make_parser()._actions for name in action.option_strings]
    assert all(name in plain("portfleet-daemon.1") for name in flags)


@pytest.mark.skipif(not shutil.which("groff"), reason="script/setup --tests installs groff-base")
@pytest.mark.parametrize("page", PAGES)
def test_roff_reads_it(page: str) -> None:
    command = ["groff", "-man", "-ww", "-Kutf8", "-Tutf8", "-rLL=80n"]
    done = subprocess.run(command, input=PAGES[page], capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout
