"""How things look on a terminal: aligned tables, colour only where somebody sees it, progress on stderr."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import IO, Any

_CODES = {
    "green": "32",
    "red": "31",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
    "bold": "1",
    "dim": "2",
}


def paint(text: str, colour: str, *, file: IO[str] | None = None) -> str:
    """Return ``text`` in colour where ``file`` (stdout) is a terminal and NO_COLOR is not set (no-color.org)."""
    file = file or sys.stdout
    if not file.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def fit(text: str) -> str:
    """Return ``text`` in lines that fit the terminal, continued with an indent; as it is if stdout is none."""
    if not sys.stdout.isatty():
        return text
    width = _terminal().columns
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Lay out rows under a head; columns in ``right`` are aligned to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def redraw(lines: Sequence[str], *, more: str) -> None:
    """Print ``lines`` over the screen before, as far as its height goes; ``more`` says how to see the others."""
    height = _terminal().lines - 1
    if len(lines) > height:
        lines = [*lines[: height - 1], paint(f"… {len(lines) - height + 1} lines more: {more}", "dim")]
    print("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J", end="", flush=True)


def print_json(value: Any) -> None:
    """Print one JSON value for programs, indented for people who look at it too."""
    print(json.dumps(value, indent=2))


class Steps:
    """Shows the steps of a plan as they are done: one line each on stderr, counted."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0

    def __call__(self, words: str) -> None:
        self._done += 1
        width = len(str(self._total))
        counted = paint(f"[{self._done:{width}}/{self._total}]", "dim", file=sys.stderr)
        print(f"{counted} {words}", file=sys.stderr, flush=True)


def _terminal() -> os.terminal_size:
    from shutil import get_terminal_size  # with bz2 and lzma 3 ms, which output to a pipe need not pay

    return get_terminal_size()
