"""The commented example of fleet.toml that `portfleet init` writes, made of the table of settings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from portfleet.config.kinds import Number
from portfleet.config.settings import TABLES
from portfleet.config.settings.table import Setting, Table

_HEAD = """\
# fleet.toml: what portfleet runs. Every key is here with what it means; those with a # in front show their default, or
# an example if they have none. Durations are "500ms", "30s", "10m", "1h". Unknown keys are errors.
# Check with: portfleet check
"""
#: Columns: where values are aligned, where comments begin, where lines end.
_VALUE, _COMMENT, _END = 11, 44, 120


def example() -> str:
    """Return the example: it loads as it is, and every key is in it."""
    return "\n".join([_HEAD, *("\n".join(_table(table)) + "\n" for table in TABLES)])


def _table(table: Table) -> Iterator[str]:
    yield from _commented(f"[{table.path.replace('NAME', 'echo')}]", table.brief)
    for setting in table.settings:
        yield from _commented(_line(table, setting), _words(setting))


def _line(table: Table, setting: Setting) -> str:
    value = setting.shown or table.default(setting) or setting.example
    return f"{setting.key if setting.shown else f'# {setting.key}':{_VALUE}} = {value}"


def _words(setting: Setting) -> str:
    bounds = f" ({setting.kind.bounds})" if isinstance(setting.kind, Number) else ""
    return setting.brief + bounds


def _commented(line: str, words: str) -> Iterator[str]:
    """Return ``line`` with ``words`` to its right, or below it if it is long."""
    rows = textwrap.wrap(words, _END - _COMMENT - 2, break_long_words=False, break_on_hyphens=False)
    if rows and len(line) < _COMMENT:
        line = f"{line:{_COMMENT}}# {rows.pop(0)}"
    yield line
    yield from (f"{'':{_COMMENT}}# {row}" for row in rows)
