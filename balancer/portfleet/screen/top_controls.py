"""What keys do in `top`: sort, filter, select, and ask before anything is drained. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from portfleet.screen.top import View

#: Keys that sort, and by what.
SORTING = {"c": "cpu", "m": "memory", "n": "connections", "w": "new", "r": "requests", "b": "in", "o": "out",
           "p": "p99", "s": "slots", "i": "name"}  # fmt: skip
HELP = (
    "up/down select  d drain  u undrain  / filter  q quit\n"
    "sort: c cpu  m mem  n conns  w new  r req  b in  o out  p p99  s slots  i name"
)


@dataclass(frozen=True)
class Wish:
    """What the reader wants: a ``verb`` for ``instance``, ``sure`` after it was shown what that means."""

    verb: str
    instance: str
    sure: bool


class Controls:
    """Keys, one after the other. It changes the view and returns what the reader asks for beyond that."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._typing = False
        self._asked: Wish | None = None
        self.ended = False
        view.line = HELP

    def ask(self, wish: Wish, words: str) -> None:
        """Ask whether to do what ``words`` say."""
        self._asked, self._view.line = wish, f"{words}. Do it? [y/N]"

    def say(self, words: str) -> None:
        """Show what came of something, until the next key."""
        self._view.line = words

    def press(self, key: str, names: Sequence[str]) -> Wish | None:
        """Take a key; ``names`` are the instances on the screen, from the top."""
        view, asked, self._asked = self._view, self._asked, None
        if self._typing:
            self._type(key)
            return None
        view.line = HELP
        if asked is not None:
            return Wish(asked.verb, asked.instance, sure=True) if key in ("y", "Y") else None
        if key in SORTING:
            view.sort = SORTING[key]
        elif key in ("up", "down", "k", "j"):
            self._select(names, 1 if key in ("down", "j") else -1)
        elif key == "/":
            self._typing, view.filter = True, ""
            self._type("")
        elif key == "q":
            self.ended = True
        elif key in ("d", "u"):
            if view.selected in names:
                return Wish("drain" if key == "d" else "undrain", view.selected, sure=False)
            view.line = "select an instance first: up, down"
        return None

    def _type(self, key: str) -> None:
        view = self._view
        if key in ("enter", "escape"):
            self._typing, view.line = False, HELP
            view.filter = "" if key == "escape" else view.filter
            return
        if key == "backspace":
            view.filter = view.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            view.filter += key
        view.line = f"only instances or states with: {view.filter}_   (enter: keep, escape: all)"

    def _select(self, names: Sequence[str], step: int) -> None:
        if not names:
            return
        known = self._view.selected in names
        at = names.index(self._view.selected) + step if known else 0 if step > 0 else len(names) - 1
        self._view.selected = names[max(0, min(len(names) - 1, at))]
