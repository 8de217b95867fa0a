"""The daemon's modules form layers: no module reaches itself through what it imports, also not for types alone."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import portfleet_daemon

PACKAGE = Path(str(portfleet_daemon.__file__)).parent


def modules() -> dict[str, str]:
    """Return the source of every module by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("portfleet_daemon", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imports(source: str, known: set[str]) -> set[str]:
    """Return the modules among `known` that `source` imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= names or {node.module}
    return found & known


def order(sources: dict[str, str]) -> list[str]:
    """Return the modules so that each comes after what it imports; raise CycleError if there is no such order."""
    return list(TopologicalSorter({name: imports(text, set(sources)) for name, text in sources.items()}).static_order())


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert len(order(modules())) == len(modules())


def test_the_walk_finds_a_cycle_also_behind_a_function_or_for_types() -> None:
    sources = {
        "a": "from b import thing",
        "b": "def f():\n    import c",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import other",
    }
    with pytest.raises(CycleError) as raised:
        order(sources)
    assert set(raised.value.args[1]) == {"a", "b", "c"}
    assert order(sources | {"c": ""}) == ["c", "b", "a"]


@pytest.mark.parametrize("word", ["odd", "irregular", "exceptional", "hub", "deaf"])
def test_a_connection_that_needs_state_has_one_name(word: str) -> None:
    """It is called stateful, as against plain, and its owner the connections."""
    names = {
        name
        for text in modules().values()
        for node in ast.walk(ast.parse(text))
        for name in (getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", ""))
        if isinstance(name, str)
    }
    assert {name for name in names if word in name.lower().split("_")} == set()
