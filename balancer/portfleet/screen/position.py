"""Which argument a command line waits for, by the parser of its verb: what completion has to offer there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """What is expected: ``kind`` is the metavar of an argument or option, "" if only options may follow.

    ``choices`` are the words that it may be, if those are given; ``prefix`` stands before each candidate, as "--to=".
    ``before`` are the positional arguments that are there already; ``options`` those that may follow, with their help.
    """

    kind: str = ""
    choices: tuple[str, ...] = ()
    prefix: str = ""
    before: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()


def position(parser: argparse.ArgumentParser, words: Sequence[str]) -> Position:
    """Return what the last of ``words`` (those behind the verb; it may be empty) is to be."""
    *done, current = words
    options = {name: action for action in parser._actions for name in action.option_strings}
    positionals = [action for action in parser._actions if not action.option_strings]
    before: list[str] = []
    used: set[str] = set()
    pending: argparse.Action | None = None
    flags = True
    for word in done:
        if pending is not None:
            pending = None
        elif flags and word == "--":
            flags = False
        elif flags and word.startswith("-") and len(word) > 1:
            name, _, value = word.partition("=")
            action = options.get(name)
            used.add(name)
            pending = action if action is not None and action.nargs != 0 and not value else None
        else:
            before.append(word)
    left = tuple((name, action.help or "") for name, action in options.items() if _offered(name, action, used))
    if pending is not None:
        return Position(_kind(pending), _choices(pending), before=tuple(before))
    name, equals, _ = current.partition("=")
    if flags and equals and (action := options.get(name)) is not None and action.nargs != 0:
        return Position(_kind(action), _choices(action), f"{name}=", tuple(before))
    if flags and current.startswith("-"):
        return Position(before=tuple(before), options=left)
    expected = _at(positionals, len(before))
    if expected is None:
        return Position(before=tuple(before), options=left)
    return Position(_kind(expected), _choices(expected), before=tuple(before))


def _offered(name: str, action: argparse.Action, used: set[str]) -> bool:
    return name.startswith("--") and not used.intersection(action.option_strings) and action.help != argparse.SUPPRESS


def _at(positionals: list[argparse.Action], index: int) -> argparse.Action | None:
    """Return the positional argument at ``index``; the last one may be repeated."""
    if index < len(positionals):
        return positionals[index]
    return positionals[-1] if positionals and positionals[-1].nargs in ("+", "*") else None


def _kind(action: argparse.Action) -> str:
    return action.metavar if isinstance(action.metavar, str) else ""


def _choices(action: argparse.Action) -> tuple[str, ...]:
    return tuple(map(str, action.choices or ()))
