"""What `apply SERVICE` applies: the config of before with one service of another."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet.config.example import example
from portfleet.config.merge import to_toml, with_service
from support.fleets import ECHO

PLAIN = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8)
VALUES = st.recursive(
    PLAIN | st.integers(-(2**53), 2**53) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=6,
)
TABLES = st.dictionaries(PLAIN, VALUES, max_size=4)


@given(st.fixed_dictionaries({"service": st.dictionaries(PLAIN, TABLES, max_size=3), "fleet": TABLES}))
def test_what_is_written_is_read_again(document: dict[str, object]) -> None:
    assert {"service": {}} | tomllib.loads(to_toml(document)) == document


@pytest.mark.parametrize("text", [ECHO, example()])
def test_a_config_stays_the_same(text: str) -> None:
    document = tomllib.loads(text)
    assert tomllib.loads(to_toml(document)) == document


def test_one_service_is_taken_and_all_else_stays() -> None:
    before = ECHO + '\n[service.kv]\ncommand = ["old"]\n[fleet]\ndrift = "report"\n'
    after = before.replace("old", "new").replace("report", "repair").replace("instances = 4", "instances = 2")
    merged = tomllib.loads(with_service(before.encode(), after.encode(), "kv").decode())
    assert merged == tomllib.loads(before.replace("old", "new"))


def test_a_service_that_is_new() -> None:
    after = ECHO + '\n[service.kv]\ncommand = ["new"]\n'
    assert tomllib.loads(with_service(ECHO.encode(), after.encode(), "kv").decode()) == tomllib.loads(after)
