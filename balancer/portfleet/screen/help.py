"""How help looks: paragraphs that fit the terminal, verbs in groups, and what a mistyped word may have meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence

#: Columns: longer lines are hard to read.
_WIDEST = 100
#: An indented row: what it is about, then words that continue below each other.
_ROW = re.compile(r" +\S+ {2,}")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fills the paragraphs of descriptions; lines that are indented stay lines."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_WIDEST)

    def format_help(self) -> str:
        from shutil import get_terminal_size  # with bz2 and lzma 3 ms: argparse makes a formatter for every option

        self._width = min(get_terminal_size().columns - 2, _WIDEST)
        self._max_help_position = min(self._max_help_position, max(self._width - 20, 2 * self._indent_increment))
        return super().format_help()

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(indent + block for block in paragraphs(text, width))


def paragraphs(text: str, width: int) -> list[str]:
    """Return the paragraphs of ``text``, filled to ``width`` columns; indented lines stay lines."""
    found = []
    for block in text.strip("\n").split("\n\n"):
        lines: list[str] = []
        for line in block.splitlines():
            if lines and line[:1].strip() and lines[-1][:1].strip():
                lines[-1] += " " + line
            else:
                lines.append(line)
        found.append("\n".join(_filled(line, width) for line in lines))
    return found


def _filled(line: str, width: int) -> str:
    row = _ROW.match(line)
    hanging = " " * (row.end() if row else len(line) - len(line.lstrip()))
    from textwrap import fill  # only for help

    return fill(line, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)


def groups(verbs: Mapping[str, Mapping[str, str]]) -> str:
    """Return the verbs under the names of their groups, as the top help shows them."""
    lines = []
    for group, members in verbs.items():
        lines += ["", f"{group}:", *(f"    {verb:<10}  {words}" for verb, words in members.items())]
    return "\n".join(lines[1:])


def examples(lines: Sequence[str]) -> str:
    """Return a verb's examples as its help ends with them."""
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def meant(word: str, words: Iterable[str]) -> str | None:
    """Return the one of ``words`` that ``word`` looks most like, None if it looks like none."""
    from difflib import get_close_matches  # only for a mistake

    return next(iter(get_close_matches(word, list(words), 1, 0.6)), None)
