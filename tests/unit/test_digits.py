"""Numbers are ASCII digits wherever text is read: in fleet.toml, on the command line, in names and in the journal."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import portfleet
from portfleet.commands import VERBS
from portfleet.commands.explain import parse_client
from portfleet.commands.pin import parse_network
from portfleet.config.reader import parse_affinity, parse_duration, parse_listen, parse_ports
from portfleet.core.digits import decimal, whole
from portfleet.core.errors import PortfleetError
from portfleet.core.journal import JournalError, from_json, to_json
from portfleet.core.model import parse_instance
from support.fleets import desired, fleet, problems

PACKAGE = Path(str(portfleet.__file__)).parent
#: Three, as Arabic, Devanagari, full-width and mathematical bold digits write it; int() takes each for 3.
THREES = ["٣", "३", "３", "𝟑"]


@given(st.text())
def test_what_is_read_is_what_is_written(text: str) -> None:
    for read in (whole, decimal):
        try:
            value = read(text)
        except ValueError:
            continue
        assert text.isascii() and re.fullmatch(r"[0-9.]+", text) and value == float(text)


@pytest.mark.parametrize("text", ["", " 3", "3 ", "+3", "-3", "1_000", "3\n", "1e3", "0x3", "9" * 20, *THREES])
def test_what_int_takes_and_people_do_not_read(text: str) -> None:
    with pytest.raises(ValueError, match="not a whole number"):
        whole(text)


#: Every reader of text in which numbers stand, and a text it takes.
READERS: list[tuple[Callable[[str], object], str]] = [
    (parse_duration, "3s"),
    (parse_duration, "1.3s"),
    (parse_listen, ":7003"),
    (parse_listen, "192.0.2.3:7000"),
    (parse_listen, "[2001:db8::3]:7000"),
    (parse_affinity, "source/23"),
    (parse_affinity, "source/24/63"),
    (parse_ports, "7100-7103"),
    (parse_client, "198.18.0.3"),
    (parse_client, "198.18.0.7:40003"),
    (parse_client, "[2001:db8::7]:40003"),
    (parse_network, "198.18.0.3"),
    (parse_network, "198.18.0.0/23"),
    (lambda text: parse_instance(text) or int("none"), "echo-blue-3"),
]


@pytest.mark.parametrize(("read", "text"), READERS)
def test_no_reader_takes_digits_of_other_scripts(read: Callable[[str], object], text: str) -> None:
    read(text)
    for three in THREES:
        with pytest.raises((ValueError, PortfleetError)):
            read(three.join(text.rsplit("3", 1)))


def typed_arguments() -> Iterator[tuple[str, argparse.Action]]:
    """Return every argument of every verb that is read into something else than text."""
    for verb in VERBS:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"portfleet.commands.{verb}").add_arguments(parser)
        yield from ((verb, action) for action in parser._actions if action.type is not None)


@pytest.mark.parametrize(
    "action", [pytest.param(action, id=f"{verb}-{action.dest}") for verb, action in typed_arguments()]
)
def test_no_argument_of_any_verb_takes_digits_of_other_scripts(action: argparse.Action) -> None:
    assert callable(action.type)
    taken = [text for text in ("3", "3%", "3x", "3s", "3/s", "127.0.0.1:3") if reads(action.type, text)]
    assert taken
    for text in taken:
        for three in THREES:
            assert not reads(action.type, text.replace("3", three))
            assert not reads(action.type, text.replace("3", "1_0"))


def reads(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return True


@pytest.mark.parametrize("folder", ["core", "config", "commands", "submit"])
def test_nothing_that_reads_text_uses_what_takes_them(folder: str) -> None:
    found = []
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(attr="isdigit" | "isdecimal" | "isnumeric"):
                    found.append((path.name, node.attr))
                case ast.keyword(arg="type", value=ast.Name(id="int" | "float" as kind)):
                    found.append((path.name, f"type={kind}"))
                case ast.Constant(value=str(pattern)) if r"\d" in pattern and id(node) not in documented:
                    found.append((path.name, pattern))
    assert found == []


@pytest.mark.parametrize("key", ["seed", "canary", "leaving"])
@pytest.mark.parametrize("value", ["٣", "3", 3.0, True, None])
def test_a_number_of_the_journal_is_a_number(key: str, value: object) -> None:
    data = json.loads(json.dumps(to_json(desired().journal)))
    data["services"]["echo"][key] = value

    with pytest.raises(JournalError, match="is not a whole number"):
        from_json(data)


def test_the_config_says_where_such_a_digit_stands() -> None:
    text = '[service.echo]\nlisten = [":700٣"]\ncommand = ["redis-server", "{port}"]\nports = "7100-71٣9"\n'
    assert [(p.path, bool(p.hint)) for p in problems(text)] == [
        ("service.echo.listen[0]", True),
        ("service.echo.ports", True),
    ]


def test_a_config_may_begin_with_a_byte_order_mark() -> None:
    text = '[service.echo]\nlisten = [":7000"]\ncommand = ["redis-server", "{port}"]\nports = "7100-7199"\n'
    assert fleet("\ufeff" + text) == fleet(text)
    assert "not TOML" in problems("\ufeff\ufeff" + text)[0].message
    (found,) = problems(b"\xef\xbb\xbf\xff")
    assert found.message == "not a text file: byte 0xff at offset 3 is not UTF-8"
