"""Write the plots and tables that are made of result files; script/docs runs it, and a test compares."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.page.figures import figures
from benchmarks.page.results import TOP
from benchmarks.page.tables import every

PLOTS = TOP / "docs/plots"


def with_tables(text: str, tables: dict[str, str]) -> str:
    """Return a page with tables in their places; raises ValueError for a table without one."""
    for name, table in tables.items():
        begin, end = f"<!-- begin {name}: written by script/docs -->\n", f"<!-- end {name} -->\n"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"no place for {name}: {begin.strip()} … {end.strip()}")
        text = before + begin + table + end + after
    return text


def files() -> dict[Path, str]:
    """Return {path: content} of all pages and plots as they have to be."""
    pages = {TOP / page: with_tables((TOP / page).read_text(), tables) for page, tables in every().items()}
    return pages | {PLOTS / name: svg for name, svg in figures().items()}


def main() -> int:
    PLOTS.mkdir(exist_ok=True)
    made = files()
    for path, text in made.items():
        path.write_text(text)
    for path in set(PLOTS.glob("*.svg")) - made.keys():
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
