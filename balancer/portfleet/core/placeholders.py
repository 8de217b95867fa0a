"""``{port}``, ``{instance}`` and their like in commands, directories and environments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

PLACEHOLDERS = ("port", "instance", "colour", "release", "control", "service", "host")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def placeholders(texts: Iterable[str]) -> set[str]:
    """Return every ``{word}`` that stands in ``texts``; other braces (JSON, say) are left alone."""
    return {word for text in texts for word in _PLACEHOLDER.findall(text)}


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace each ``{word}`` by its value; raises KeyError for a word without one (config_rules finds it first)."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)
