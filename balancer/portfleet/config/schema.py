"""The JSON schema of fleet.toml (draft 2020-12), made of the table of settings: for editors and for whoever writes one.

It refuses what is wrong by itself: unknown keys, kinds, ranges, words. What needs a second key or the machine (ports
that overlap, commands that are not installed) only `portfleet check` finds.
"""

from __future__ import annotations

import tomllib
from typing import Any

from portfleet.config.kinds import Schema
from portfleet.config.load import NAME_PATTERN
from portfleet.config.settings import DRAIN, FLEET, FORWARD, METRICS, PAGE, PROBE, SERVICE
from portfleet.config.settings.table import Setting, Table

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> Schema:
    """Return the schema of a whole fleet.toml, as the JSON that its TOML stands for."""
    service = _table(SERVICE)
    service["properties"] |= {"probe": {"$ref": "#/$defs/probe"}, "drain": {"$ref": "#/$defs/drain"}}
    service["required"] = [setting.key for setting in SERVICE.settings if setting.asks is not None]
    services = {
        "type": "object",
        "description": "the services by name",
        "minProperties": 1,
        "patternProperties": {NAME_PATTERN: {"$ref": "#/$defs/service"}},
        "additionalProperties": False,
    }
    others = {table.path: _table(table) for table in (FLEET, FORWARD, METRICS, PAGE)}
    return {
        "$schema": _DRAFT,
        "title": "fleet.toml of portfleet",
        "type": "object",
        "properties": {"service": services, **others},
        "required": ["service"],
        "additionalProperties": False,
        "$defs": {
            "service": service,
            "probe": _table(PROBE) | {"dependentRequired": {"expect": ["send"]}},
            "drain": _table(DRAIN),
        },
    }


def _table(table: Table) -> Schema:
    properties = {setting.key: _key(table, setting) for setting in table.settings}
    return {"type": "object", "description": table.brief, "properties": properties, "additionalProperties": False}


def _key(table: Table, setting: Setting) -> Schema:
    found = setting.kind.schema() | {"description": setting.brief, "examples": [_value(setting.example)]}
    if setting.asks is not None and found["type"] == "array":
        found["minItems"] = 1
    default = table.default(setting)
    return found | ({"default": _value(default)} if default else {})


def _value(toml: str) -> Any:
    return tomllib.loads(f"value = {toml}")["value"]
