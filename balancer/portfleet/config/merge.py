"""A config of which one service is taken from another: what `apply SERVICE` applies."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

_HEAD = "# Written by `portfleet apply SERVICE`: the config that was applied last, with one service of fleet.toml.\n"


def with_service(applied: bytes, config: bytes, name: str) -> bytes:
    """Return the TOML of ``applied`` with the service ``name`` as ``config`` has it, which has it; both are valid."""
    document = tomllib.loads(applied.decode())
    service = tomllib.loads(config.decode())["service"][name]
    return to_toml(document | {"service": document.get("service", {}) | {name: service}}).encode()


def to_toml(document: Mapping[str, Any]) -> str:
    """Return a parsed config as TOML again; comments are gone."""
    return "\n".join([_HEAD, *_tables(document)]) + "\n"


def _tables(document: Mapping[str, Any]) -> Iterator[str]:
    for name, service in document.get("service", {}).items():
        yield from _table(f"service.{_text(name)}", service)
    for name, table in document.items():
        if name != "service":
            yield from _table(_text(name), table)


def _table(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    yield f"[{name}]"
    yield from (f"{_text(key)} = {_value(value)}" for key, value in table.items())
    yield ""


def _value(value: Any) -> str:
    """Return a value; strings, numbers and booleans are written as JSON writes them."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_text(key)} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
