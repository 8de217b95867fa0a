"""Which tests belong to a file: `tests_of.py ARGUMENT…` prints pytest's arguments, sources replaced by their tests.

The table is in docs/development.md; a folder stands for all files in it, in the table too. Tests, flags and whatever is
no path stay as they are. Standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

TOP = Path(__file__).parents[2]
PAGE = TOP / "docs" / "development.md"
#: Flags of pytest whose value may be called like a folder.
_WITH_VALUE = ("-k", "-m")
_ROW = re.compile(r"^\| `([^`]+)` \| ((?:`[^`]+` ?)+)\|$", re.MULTILINE)


def table(page: str) -> dict[str, list[str]]:
    """Return {source: its test files}, both from the top, as ``page`` has it; `{a,b}` is written out."""
    found: dict[str, list[str]] = {}
    for sources, tests in _ROW.findall(page):
        for source in spread(sources):
            found.setdefault(source, []).extend(f"tests/{name}.py" for name in re.findall("`([^`]+)`", tests))
    return found


def spread(text: str) -> Iterator[str]:
    """Return what `{a,b}` in ``text`` stands for, as the shell writes it out; one pair of braces at most."""
    before, opened, rest = text.partition("{")
    inner, _, after = rest.partition("}")
    yield from (f"{before}{name}{after}" for name in inner.split(",")) if opened else (text,)


def chosen(arguments: Sequence[str], rows: dict[str, list[str]]) -> list[str]:
    """Return pytest's arguments; raises LookupError for a file that no row has."""
    found: list[str] = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        name = _source(argument) if before not in _WITH_VALUE else ""
        if not name:
            found.append(argument)
            continue
        tests = [
            test for source, tests in rows.items() if _within(source, name) or _within(name, source) for test in tests
        ]
        if not tests:
            raise LookupError(argument)
        found += [test for test in dict.fromkeys(tests) if test not in found]
    return found


def _within(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")


def _source(argument: str) -> str:
    """Return the path, from the top, of the source file or folder that ``argument`` is; "" for anything else."""
    path = (TOP / argument).resolve()
    if argument.startswith("-") or not path.exists() or not path.is_relative_to(TOP):
        return ""
    name = str(path.relative_to(TOP))
    is_test = _within(name, "tests") and not _within(name, "tests/support")
    return "" if name == "." or is_test else name


def main() -> int:
    """Print one argument a line."""
    try:
        print("\n".join(chosen(sys.argv[1:], table(PAGE.read_text()))))
    except LookupError as error:
        print(f"script/test: docs/development.md names no tests of {error}", file=sys.stderr)
        print("hint: add it to the table there, or name the tests: script/test tests/unit", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
