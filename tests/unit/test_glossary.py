"""The glossary has the words that people see, and the help uses no other words for the same things."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from portfleet.commands import VERBS
from portfleet.core.states import State, Wanted

DOCS = Path("docs")
TEXT = (DOCS / "glossary.md").read_text()
#: Words of other programs, or of ours long ago, for things that have a word here.
OTHERS = {
    "backend": "instance",
    "upstream": "instance",
    "worker node": "instance",
    "health check": "probe",
    "virtual server": "service",
    "hand-over": "hand-off",
    "handover": "hand-off",
}
#: Words that leave open who is meant, or that a native speaker would not use for it.
VAGUE = ("nobody", "somebody", "everybody", "mend", "mends", "mended")
#: … and pages that compare them.
COMPARING = {"glossary.md"}


def section(title: str) -> dict[str, str]:
    """Return {word: meaning} of the table below a heading that begins with ``title``."""
    body = TEXT.split(f"## {title}")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", body, re.MULTILINE)[1:])


def help_of(verb: str) -> str:
    parser = argparse.ArgumentParser(prog=f"portfleet {verb}")
    command = importlib.import_module(f"portfleet.commands.{verb}")
    command.add_arguments(parser)
    return f"{VERBS[verb]} {command.__doc__} {parser.format_help()}"


def test_every_state_is_explained_and_none_that_is_not() -> None:
    assert section("STATE").keys() == {state.value for state in State}
    assert section("WANTED").keys() == {wanted.value for wanted in Wanted}


@pytest.mark.parametrize(
    "word", ["slot", "home table", "colour", "live", "mark", "keeper", "pin", "watcher", "journal"]
)
def test_the_things_are_explained(word: str) -> None:
    assert len(section("Things")[word]) > 20


def test_every_verb_that_names_an_act_is_explained() -> None:
    acts = {"drain", "migrate", "cutover", "rollback", "rebalance"}
    assert acts <= section("What is done").keys() and acts <= VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_has_one_word_for_each_thing(verb: str) -> None:
    said = help_of(verb).lower()
    assert [word for word in OTHERS if re.search(rf"\b{word}s?\b", said)] == []


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_says_who_is_meant(verb: str) -> None:
    assert [word for word in VAGUE if re.search(rf"\b{word}\b", help_of(verb).lower())] == []


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_the_pages_say_who_is_meant(page: str) -> None:
    said = re.sub(
        r"`[^`]*`|\"[^\"]*\"|^ {4}.*$|^```.*?^```$", "", (DOCS / page).read_text(), flags=re.MULTILINE | re.DOTALL
    )
    assert [word for word in VAGUE if re.search(rf"\b{word}\b", said.lower())] == []


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md") if path.name not in COMPARING))
def test_the_pages_have_one_word_for_each_thing(page: str) -> None:
    said = (DOCS / page).read_text().lower()
    assert [word for word in OTHERS if re.search(rf"\b{word}s?\b", said)] == []


def test_every_word_is_used() -> None:
    pages = " ".join(path.read_text() for path in (*DOCS.glob("*.md"), Path("README.md")) if path.name != "glossary.md")
    said = (pages + " ".join(map(help_of, VERBS))).lower()
    words = {*section("Things"), *section("What is done")}
    unused = [word for word in words if word not in said and word.replace("hand off", "handed off") not in said]
    assert unused == []
