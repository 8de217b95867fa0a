"""The keys of a terminal, one by one and without waiting for a line; the terminal is as before at the end."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

#: What terminals send for keys that are no characters (ECMA-48), and what we call them.
_NAMES = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down", "\x1b": "escape",
          "\n": "enter", "\r": "enter", "\x7f": "backspace", "\x08": "backspace"}  # fmt: skip
_KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])?|.", re.DOTALL)


class Keys:
    """What is typed; ``fileno`` is where."""

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno

    def read(self, seconds: float) -> list[str]:
        """Return the keys that come within ``seconds``, as soon as some have; none if none do."""
        if not select.select([self._fileno], [], [], max(0.0, seconds))[0]:
            return []
        data = os.read(self._fileno, 1024)
        if not data:
            raise KeyboardInterrupt  # the terminal is gone
        return named(data.decode(errors="replace"))


def named(text: str) -> list[str]:
    """Return the keys that ``text`` stands for; sequences of unknown keys are left out."""
    found = (_NAMES.get(key, key) for key in _KEY.findall(text))
    return [key for key in found if not key.startswith("\x1b")]


@contextmanager
def keys() -> Iterator[Keys | None]:
    """Have keys come one by one during the block; None if standard input is no terminal, or belongs to another job."""
    fileno = sys.stdin.fileno()
    if not os.isatty(fileno) or os.tcgetpgrp(fileno) != os.getpgrp():
        yield None
        return
    before = termios.tcgetattr(fileno)
    try:
        tty.setcbreak(fileno)
        yield Keys(fileno)
    finally:
        termios.tcsetattr(fileno, termios.TCSADRAIN, before)
