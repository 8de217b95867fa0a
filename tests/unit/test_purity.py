"""What decides does not act: pure modules import nothing by which a program looks or acts, however far one follows."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

import portfleet

PACKAGE = Path(portfleet.__file__).parent
PURE = ["config", "config_rules", "read_toml", "model", "states", "desired", "wants", "slots", "affinity", "jhash"]
PURE += ["expand", "plan", "steps", "observed", "journal", "rebuild", "kernel.changes", "kernel.nft_text", "program"]
#: What looks at the machine, acts on it, or makes two runs differ.
FORBIDDEN = {"socket", "os", "subprocess", "ctypes", "time", "datetime", "random", "threading", "asyncio", "signal"}
FORBIDDEN |= {"fcntl", "shutil", "tempfile", "select", "resource", "pwd", "http", "xmlrpc", "nftables"}
#: May be reached, and is looked at no further: where files lie (names only), and Jinja2 as a function of its template.
ALLOWED = {"portfleet.paths", "portfleet.templating", "portfleet.outset"}


def imports(module: str) -> set[str]:
    """Give every module that the source of ``module`` imports, inside functions too, but not for types alone."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = {name for name in names if name.startswith("portfleet") and is_module(name)}
            found |= inner or {node.module}
    return found


def is_module(name: str) -> bool:
    """True where ``name`` is a module of portfleet and not a name in one."""
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def reached(module: str) -> dict[str, str]:
    """Give {imported module: the way to it} for everything that ``module`` reaches through portfleet's own modules."""
    ways: dict[str, str] = {}
    todo = [(f"portfleet.{module}", module)]
    while todo:
        here, way = todo.pop()
        for name in sorted(imports(here)):
            if name in ways:
                continue
            ways[name] = f"{way} → {name.removeprefix('portfleet.')}"
            if name.split(".")[0] == "portfleet" and name not in ALLOWED:
                todo.append((name, ways[name]))
    return ways


@pytest.mark.parametrize("module", PURE)
def test_it_reaches_nothing_that_looks_or_acts(module: str) -> None:
    assert [way for name, way in reached(module).items() if name.split(".")[0] in FORBIDDEN] == []


def test_the_walk_finds_what_is_there() -> None:
    """A walk that finds nothing would let everything pass."""
    assert "config → config_rules → program → templating" in reached("config").values()
    assert {"os", "socket"} & {name.split(".")[0] for name in reached("execute")}


def test_the_two_packages_never_import_each_other() -> None:
    for package, other in (("portfleet", "portfleet_daemon"), ("portfleet_daemon", "portfleet")):
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        for path in Path(spec.origin).parent.rglob("*.py"):
            tree = ast.parse(path.read_text())
            names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert other not in {name.split(".")[0] for name in names}, path
