"""Text that came from elsewhere, made fit for a terminal and a log line."""

from __future__ import annotations

#: Characters of a foreign text that are shown.
MOST = 200


def printable(text: str, most: int = MOST) -> str:
    """Return ``text`` with "?" for each character that does not print, cut to ``most`` characters.

    Escapes, line ends, bidirectional marks and lone surrogates do not print (str.isprintable).
    """
    shown = "".join(c if c.isprintable() else "?" for c in text[:most])
    return shown + "…" if len(text) > most else shown
