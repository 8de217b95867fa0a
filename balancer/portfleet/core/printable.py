"""Text for people: what came from elsewhere, made fit for a terminal and a log line, and names in a row."""

from __future__ import annotations

from collections.abc import Sequence

#: Characters of a foreign text that are shown.
MOST = 200


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
