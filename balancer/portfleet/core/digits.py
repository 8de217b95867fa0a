"""Numbers as operators, config files and the journal hold them: in ASCII digits.

int(), float(), str.isdigit() and \\d take the digits of every script, and int() and float() also signs, blanks and
underscores: a port that looks like one number could be read as another. A unit test keeps them out of what reads such
text; what the kernel prints is ASCII.
"""

from __future__ import annotations

import re

#: Enough for 64 bits; int() itself takes quadratic time for long texts, and refuses more than 4,300 digits.
_WHOLE = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?")


def whole(text: str) -> int:
    """Return the whole number that ``text`` is; raises ValueError."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f'"{text[:80]}" is not a whole number')
    return int(text)


def decimal(text: str) -> float:
    """Return the number that ``text`` is, such as 2 or 0.5; raises ValueError."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f'"{text[:80]}" is not a number')
    return float(text)
