"""`portfleet check --schema`: another implementation of JSON Schema takes for right and wrong what portfleet does."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from portfleet.config.example import example
from portfleet.config.schema import schema
from portfleet.config.settings import TABLES
from support.fleets import ECHO, machine, problems

VALIDATOR = Draft202012Validator(schema())


def wrong(text: str) -> list[str]:
    """Return where and why the schema refuses a config."""
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def test_it_is_a_schema_of_the_draft_it_names() -> None:
    Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert json.loads(json.dumps(schema())) == schema()


def test_the_example_is_right_also_with_every_key_in_use() -> None:
    assert wrong(example()) == []
    in_use = [line.removeprefix("# ") if " = " in line else line for line in example().splitlines()]
    assert wrong("\n".join(in_use)) == []


def test_every_key_has_its_description_and_each_default_and_example_is_right() -> None:
    found = schema()
    objects = [
        found["$defs"]["service"],
        found["$defs"]["probe"],
        found["$defs"]["drain"],
        found["properties"]["fleet"],
        found["properties"]["forward"],
        found["properties"]["metrics"],
        found["properties"]["page"],
    ]
    for table, described in zip(TABLES, objects, strict=True):
        for row in table.settings:
            key = described["properties"][row.key]
            assert key["description"] == row.brief
            validator = Draft202012Validator(key)
            for value in [*key["examples"], *([key["default"]] if "default" in key else [])]:
                assert validator.is_valid(value), (row.key, value)


#: What one key says that is wrong by itself, by the key's table.
BROKEN = {
    "service.echo": [
        *("listen = []", "listen = ':7000'", "listen = ['7000']", "listen = [7000]", "listen = [':700٣']"),
        *("listen = ['host:1']", "listen = [':7000', ':7000']", "command = []", "command = 'x'", "command = [3]"),
        *('command = ["\\u0007"]', "release = ''", 'user = "a\\nb"', "directory = 3", "releases = []"),
        *(
            "environment = 3",
            "environment = {A = 1}",
            "environment = {'A-B' = '1'}",
            "environment = {PORTFLEET_X = ''}",
        ),
        *("instances = 0", "instances = 1025", "instances = '4'", "instances = true", "instances = 1.5"),
        *("ports = '7100'", "ports = 7100", "ports = '71٠0-7199'", "slots = 255", "slots = 65537"),
        *("affinity = 'src'", "affinity = 24", "sticky = '5'", "sticky = '0s'", "sticky = 5", "sticky_size = 5"),
        *("weight = {1 = -1}", "weight = {1 = 1001}", "weight = {1 = 'x'}", "weight = {x = 1}", "max_connections = -1"),
        *("overflow = 'x'", "when_empty = ''", "remote = [':7101']", "remote = ['x']", "start_timeout = 30"),
        *("start_timeout = 'off'", "start_timeout = '0.0s'", "keep_releases = 0", "probe = 3", "drain = []", "x = 1"),
    ],
    "service.echo.probe": ["expect = 'x'", "send = 3", "interval = '1 s'", "fall = 0", "rise = 101", "x = 1"],
    "service.echo.drain": ["rate = 0", "deadline = 'off'", "then = 'x'", "speed = 1"],
    "forward": [
        *("addresses = 3", "addresses = ['x']", "boxes = ['a']", "boxes = {'a b' = ['192.0.2.1']}", "boxes = {a = 1}"),
        *(
            "boxes = {a = ['192.0.2.1', '192.0.2.2', '192.0.2.3']}",
            "out = 'a'",
            "draining = [1]",
            "slots = 100",
            "x = 1",
        ),
        *("devices = ['a\"']", "devices = ['0123456789abcdef']"),
    ],
    "fleet": ["drift = 'x'", "drift = 1", "drifts = 'repair'"],
}


@pytest.mark.parametrize(("table", "line"), [(table, line) for table, lines in BROKEN.items() for line in lines])
def test_both_refuse_what_is_wrong_by_itself(table: str, line: str) -> None:
    if table == "service.echo":
        key = line.split(" =", maxsplit=1)[0]
        text = "\n".join([row for row in ECHO.splitlines() if not row.startswith(f"{key} =")] + [line])
    else:
        text = f"{ECHO}[{table}]\n{line}\n"
    assert problems(text) != ()
    assert len(wrong(text)) == 1, wrong(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1\n" + ECHO,
        "service = 3",
        "[service]",
        "[service]\necho = 3",
        *(ECHO.replace("echo", name) for name in ("Echo", "1st", "service-x", "a-blue-1", "a-remote-12", "a" * 32)),
        *("\n".join(row for row in ECHO.splitlines() if key not in row) for key in ("listen", "command", "ports")),
    ],
)
def test_both_refuse_a_file_that_is_wrong_as_a_whole(text: str) -> None:
    assert problems(text) != () and wrong(text) != []


#: Values that are right for some key and wrong for others.
VALUES: list[Any] = [0, 1, 3, 300, 4096, True, 1.5, "", "off", "5s", "0s", "1.5h", "source/24", "source/33", "random"]
VALUES += ["next", "refuse", "keep", "wait", "evict", "7100-7107", "7100-7199", "/srv", "nobody", "PING\n", "{port}"]
VALUES += [[], [":7000"], ["0.0.0.0:7000"], ["[2001:db8::1]:7000"], ["203.0.113.2:7101"], ["redis-server", "{port}"]]
VALUES += [{}, {"1": 2}, {"4": 0}, {"remote-1": 2}, {"A": "x"}, {"send": "x", "expect": "y"}, {"rate": 5}]
KEYS = [row.key for row in TABLES[0].settings] + ["probe", "drain"]


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=4))
def test_the_schema_refuses_nothing_that_portfleet_takes(values: dict[str, Any]) -> None:
    kept = [line for line in ECHO.splitlines() if line.split(" =")[0] not in values]
    text = "\n".join([*kept, *(f"{key} = {toml(value)}" for key, value in values.items())])
    if problems(text, machine(paths=("/srv",))) == ():
        assert wrong(text) == []


def toml(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
