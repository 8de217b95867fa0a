"""Text for people: numbers with what they count, in messages and in the sentences of events."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import portfleet
from portfleet.core.events import make
from portfleet.core.kinds import KINDS
from portfleet.core.printable import quantity

_PACKAGE = Path(str(portfleet.__file__)).parent
#: What is counted, in the plural, right behind a number that is put in: `{there} connections`.
_COUNTED = re.compile(
    r" (?:(?:established|new|former) )?"
    r"(?:connections|instances|requests|warnings|events|steps|boxes|slots|entries|problems|workers|lines)\b(?![-=/])"
)


def test_one_is_not_many() -> None:
    assert [quantity(number, "connection") for number in (0, 1, 2000)] == [
        "0 connections", "1 connection", "2,000 connections"
    ]  # fmt: skip
    assert [quantity(number, "box", "answers") for number in (1, 2)] == ["1 box answers", "2 boxes answer"]
    assert [quantity(number, "entry", "is") for number in (1, 2)] == ["1 entry is", "2 entries are"]
    assert [quantity(number, "", "was") for number in (1, 2)] == ["1 was", "2 were"]


def test_sentences_of_events_count() -> None:
    def words(kind: str, **fields: object) -> str:
        return make(kind, "now", fields).words

    assert words("applied", verb="up", operator="root@host", serving=1) == "up by root@host: 1 instance serves"
    assert words("applied", verb="up", operator="root@host", serving=4) == "up by root@host: 4 instances serve"
    assert words("serving", instance="echo-blue-1", slots=1, reason="x") == "echo-blue-1 serves with 1 slot: x"
    assert words("events-missed") == "? event found no room before the command"


def test_no_message_says_1_connections() -> None:
    assert [*_fixed_plurals()] == []
    assert [kind for kind, found in KINDS.items() if re.search(rf"\}}{_COUNTED.pattern}", found.words)] == []


def _fixed_plurals() -> Iterator[str]:
    """Yield where a number that may be one stands before a plural; "3 of 4,096 slots" and "1 to 9 instances" may."""
    for path in sorted(_PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.JoinedStr):
                continue
            for place, text in enumerate(node.values[1:], 1):
                before = node.values[place - 2] if place > 1 else None
                whole = isinstance(before, ast.Constant) and str(before.value).endswith((" of ", " to "))
                if isinstance(text, ast.Constant) and _COUNTED.match(str(text.value)) and not whole:
                    yield f"{path.relative_to(_PACKAGE)}:{node.lineno}: {ast.unparse(node)}"
