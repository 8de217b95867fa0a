"""Text for people: what came from elsewhere, made fit for a terminal and a log line, and names in a row."""

from __future__ import annotations

from collections.abc import Sequence

#: Characters of a foreign text that are shown.
MOST = 200
_PLURAL = {"is": "are", "was": "were", "has": "have"}


def printable(text: str, most: int = MOST) -> str:
    """Return ``text`` with "?" for each character that does not print, cut to ``most`` characters.

    Escapes, line ends, bidirectional marks and lone surrogates do not print (str.isprintable).
    """
    shown = "".join(c if c.isprintable() else "?" for c in text[:most])
    return shown + "…" if len(text) > most else shown


def names(found: Sequence[str], kind: str = "instances") -> str:
    """Join names for people: all of a few; of many the first, the last and how many of their ``kind``."""
    if len(found) <= 4:
        return ", ".join(found)
    return f"{found[0]} … {found[-1]} ({len(found)} {kind})"


def quantity(number: int, noun: str, verb: str = "") -> str:
    """Return a number, what it counts, and what that does: "1 connection is", "2,000 connections are".

    ``noun`` and ``verb`` are those of one; either may be left out.
    """
    words = (noun, verb) if number == 1 else (_many(noun), _PLURAL.get(verb, verb.removesuffix("s")))
    return " ".join(filter(None, (f"{number:,}", *words)))


def _many(noun: str) -> str:
    if not noun:
        return ""
    if noun.endswith("y"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("x", "s")) else f"{noun}s"
