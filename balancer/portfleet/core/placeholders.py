"""``{port}``, ``{instance}`` and their like in commands, directories, environments and templates of files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

PLACEHOLDERS = ("port", "instance", "colour", "release", "control", "service", "host")
_PLACEHOLDER = re.compile(r"\{\{(?P<kept>[a-z_]+)\}\}|\{(?P<word>[a-z_]+)\}")


def known(extra_ports: Iterable[str]) -> tuple[str, ...]:
    """Return the words that are filled in for a service with these extra ports."""
    return (*PLACEHOLDERS, *(f"port_{name}" for name in extra_ports))


def placeholders(texts: Iterable[str]) -> set[str]:
    """Return every ``{word}`` that stands in ``texts``; other braces (JSON, say) are left alone, and ``{{word}}``."""
    return {match["word"] for text in texts for match in _PLACEHOLDER.finditer(text) if match["word"]}


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace each ``{word}`` by its value, and ``{{word}}`` by ``{word}`` as a daemon's own file may need it.

    Raises KeyError for a word without a value (config.rules finds it first).
    """
    return _PLACEHOLDER.sub(lambda match: values[match["word"]] if match["word"] else f"{{{match['kept']}}}", text)
