"""Each folder of the control tool is a layer: what may import what, and what decides without looking at the machine.

``LAYERS`` is the house's plan. Imports inside functions count too; those for types alone do not reach at run time, but
they say what a module knows, so they count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import portfleet
import portfleet_daemon

PACKAGE = Path(str(portfleet.__file__)).parent
_1 = {"core", "linux", "store", "config"}
_2 = _1 | {"supervise", "dataplane", "daemons", "doctor", "screen"}
_3 = _2 | {"apply"}
_4 = _3 | {"submit", "watch"}
#: What each folder may import beside itself. A name with a dot is that one module.
LAYERS: dict[str, set[str]] = {
    "core": set(),
    "linux": {"core"},
    "store": {"core"},
    "config": {"core"},
    "supervise": _1,
    "dataplane": _1 | {"doctor.finding"},
    "daemons": _1 | {"supervise", "dataplane.interface", "dataplane.relocation"},
    "doctor": _2,
    "screen": _2,
    "apply": _2,
    "submit": _3,
    "metrics": _1,
    "watch": _3,
    "operations": _3 | {"watch"},
    "commands": _3 | {"submit"},
    "": _3 | {"commands"},  # __main__
}
#: Modules that may import more, each with what.
EXTRA: dict[str, set[str]] = {
    "commands.watch": {"watch", "operations"},
    "commands.metrics": {"metrics"},
    "dataplane.choose": {"dataplane.nft"},
}
#: What does not follow the plan yet.
EXCEPTIONS: set[tuple[str, str]] = set()

#: What looks at the machine, acts on it, or makes two runs differ: not for core.
IMPURE = {"socket", "os", "subprocess", "ctypes", "time", "datetime", "random", "threading", "asyncio", "signal"}
IMPURE |= {"fcntl", "shutil", "tempfile", "select", "resource", "pwd", "http", "xmlrpc", "nftables"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(source: str) -> set[str]:
    """Return every module that ``source`` imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = {name for name in names if name.startswith("portfleet.") and is_module(name)}
            found |= inner or {node.module}
    return found


def within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def forbidden(module: str, source: str) -> list[str]:
    """Return what ``module`` imports although its folder may not."""
    folder = module.split(".", maxsplit=1)[0] if "." in module or (PACKAGE / module).is_dir() else ""
    allowed = LAYERS[folder] | EXTRA.get(module, set()) | ({folder} if folder else set())
    wrong = []
    for name in sorted(imports(source)):
        if name == "portfleet" or not name.startswith("portfleet."):
            continue
        inner = name.removeprefix("portfleet.")
        outside_nft = within(inner, {"dataplane.nft"}) and not within(module, {"dataplane.nft"} | set(EXTRA))
        if outside_nft or not within(inner, allowed):
            wrong.append(inner)
    return wrong


def test_every_import_follows_the_plan() -> None:
    wrong = {(module, name) for module, path in modules() for name in forbidden(module, path.read_text())}
    assert sorted(wrong - EXCEPTIONS) == []
    assert sorted(EXCEPTIONS - wrong) == [], "these follow the plan now: take them off the list"


@pytest.mark.parametrize("module, path", [(m, p) for m, p in modules() if m.startswith("core")])
def test_core_neither_looks_nor_acts(module: str, path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path.read_text())} & IMPURE == set()


def test_nothing_is_loose() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize(
    "module, source, wrong",
    [
        ("core.slots", "from portfleet.store import locks", ["store.locks"]),
        ("core.slots", "def f():\n    from portfleet.store.locks import hold", ["store.locks"]),
        ("daemons.probe", "import portfleet.dataplane.interface", []),
        ("daemons.probe", "import portfleet.dataplane.choose", ["dataplane.choose"]),
        ("watch.ejector", "from portfleet.dataplane.nft import plane", ["dataplane.nft.plane"]),
        ("dataplane.nft.plane", "from portfleet.dataplane.nft.text import base", []),
        ("commands.drain", "from portfleet.operations import drain", ["operations.drain"]),
        ("commands.watch", "from portfleet.operations import drain", []),
    ],
)
def test_the_walk_finds_what_breaks_the_plan(module: str, source: str, wrong: list[str]) -> None:
    assert forbidden(module, source) == wrong


def test_the_two_packages_never_import_each_other() -> None:
    daemon = Path(str(portfleet_daemon.__file__)).parent
    for folder, other in ((PACKAGE, "portfleet_daemon"), (daemon, "portfleet")):
        for path in folder.rglob("*.py"):
            assert other not in {name.split(".")[0] for name in imports(path.read_text())}, path
