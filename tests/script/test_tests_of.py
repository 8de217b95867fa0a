"""`script/test PATH`: the table of docs/development.md has every module, and names tests that are there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests_of import PAGE, TOP, chosen, spread, table

ROWS = table(PAGE.read_text())


def files(pattern: str) -> set[str]:
    """Return the files of the checkout that match, those that hold nothing but a docstring left out."""
    return {str(path.relative_to(TOP)) for path in TOP.glob(pattern) if not _empty(path)}


def _empty(path: Path) -> bool:
    return path.name == "__init__.py" and len(ast.parse(path.read_text()).body) < 2


def test_every_module_of_both_packages_has_its_row() -> None:
    assert sorted((files("balancer/**/*.py") | files("daemon/**/*.py")) - ROWS.keys()) == []


def test_every_row_is_of_a_file_and_names_tests_that_are_there() -> None:
    named = [*ROWS, *(test for tests in ROWS.values() for test in tests)]
    assert sorted({name for name in named if not (TOP / name).exists()}) == []


def test_every_file_of_tests_belongs_to_something() -> None:
    tests = set().union(*(files(f"tests/{folder}/test_*.py") for folder in ("unit", "daemon", "kernel", "fleet")))
    assert sorted(tests - {test for tests in ROWS.values() for test in tests}) == []


def test_sources_become_their_tests_and_the_rest_stays() -> None:
    rows = {
        "balancer/portfleet/core/slots.py": ["tests/unit/test_slots.py"],
        "balancer/portfleet/core/plan.py": ["tests/a", "tests/b"],
    }
    assert chosen(["balancer/portfleet/core/slots.py"], rows) == ["tests/unit/test_slots.py"]
    assert chosen(["balancer/portfleet/core", "-x", "-k", "core"], rows) == [
        "tests/unit/test_slots.py", "tests/a", "tests/b", "-x", "-k", "core",
    ]  # fmt: skip
    assert chosen(["tests/unit", "-k", "daemon"], rows) == ["tests/unit", "-k", "daemon"]
    with pytest.raises(LookupError, match="README"):
        chosen(["README.md"], rows)


def test_braces_are_written_out_as_the_shell_does() -> None:
    assert list(spread("a/{b,c}.py")) == ["a/b.py", "a/c.py"] and list(spread("a/b.py")) == ["a/b.py"]
