"""How things look on a terminal: aligned tables, lines that fit, colour only on a terminal, progress on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import IO, Any

from portfleet.core.printable import quantity

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
_PASTED = re.compile(r"Follow it with: [^;]*|[Uu]ndo with: .*$")
_FURTHER = 8
#: Takes the place of a space at which a line is not to be broken: `textwrap` knows the spaces of ASCII alone.
_BOUND = "\xa0"
#: A part of a command line, up to a | or && outside of quotes.
_PART = re.compile(r"""(?:'[^']*'|"[^"]*"|[^'"])+?(?: (?:\||&&) |$)""")


def paint(text: str, colour: str, *, file: IO[str] | None = None) -> str:
    """Return ``text`` in colour if ``file`` (stdout) is a terminal and NO_COLOR is not set (no-color.org)."""
    file = file or sys.stdout
    if not file.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def fit(text: str, *, indent: int | None = None, file: IO[str] | None = None) -> str:
    """Return lines that fit the terminal, as they are if ``file`` (stdout) is none.

    What is too long continues at column ``indent``, by default two columns further in than it begins, and if that would
    leave less than two thirds of the width at `_FURTHER`. Commands to paste are not broken: those after "hint: ",
    "Follow it with: " and "undo with: ".
    """
    width = columns(file)
    return text if width is None else "\n".join(filled(line, width, indent) for line in text.splitlines())


def filled(line: str, width: int, indent: int | None = None) -> str:
    """Return a line in lines of ``width`` columns at most, as `fit` does."""
    if len(line) <= width or line.lstrip().startswith("hint: "):
        return line
    further = len(line) - len(line.lstrip()) + 2 if indent is None else indent
    further = further if 3 * further <= width else _FURTHER
    bound = _PASTED.sub(lambda found: found[0].replace(" ", _BOUND), line)
    from textwrap import fill  # 1 ms, which lines that fit need not pay

    found = fill(bound, width, subsequent_indent=" " * further, break_long_words=False, break_on_hyphens=False)
    return found.replace(_BOUND, " ")


def fit_command(text: str, *, indent: int) -> str:
    """Return a shell's command line in lines that fit the terminal, broken where the shell lets one go on."""
    width = columns()
    if width is None or indent + len(text) <= width:
        return text
    lines: list[str] = []
    for part in _PART.findall(text):
        if lines and indent + len(lines[-1]) + len(part.rstrip()) <= width:
            lines[-1] += part
        else:
            lines.append(part)
    return ("\n" + " " * indent).join(line.rstrip() for line in lines)


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


def fitting(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int], spare: Sequence[int], width: int | None
) -> list[str]:
    """Lay out a table; while it is wider than ``width`` columns of text, the next of the columns in ``spare`` goes."""
    shown, left = list(range(len(head))), list(spare)
    while True:
        cells = [[row[column] for column in shown] for row in rows]
        aligned = [place for place, column in enumerate(shown) if column in right]
        lines = table([head[column] for column in shown], cells, right=aligned)
        if width is None or not left or max(map(len, lines)) <= width:
            return lines
        shown.remove(left.pop(0))


def columns(file: IO[str] | None = None) -> int | None:
    """Return how wide the terminal is; None if ``file`` (stdout) is none."""
    return _terminal().columns if (file or sys.stdout).isatty() else None


def redraw(lines: Sequence[str], *, more: str) -> None:
    """Print ``lines`` over the screen before, as far as its height goes; ``more`` says how to see the others."""
    height = _terminal().lines - 1
    if len(lines) > height:
        lines = [*lines[: height - 1], paint(f"… {quantity(len(lines) - height + 1, 'line')} more: {more}", "dim")]
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
        counted = f"[{self._done:{width}}/{self._total}]"
        line = fit(f"{counted} {words}", indent=len(counted) + 1, file=sys.stderr)
        print(paint(counted, "dim", file=sys.stderr) + line.removeprefix(counted), file=sys.stderr, flush=True)


def _terminal() -> os.terminal_size:
    from shutil import get_terminal_size  # with bz2 and lzma 3 ms, which output to a pipe need not pay

    return get_terminal_size()
