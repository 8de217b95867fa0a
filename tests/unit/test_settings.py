"""The table of settings: it has every key of the model, its examples hold, and what a change takes is true."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from portfleet.config.reader import Reader
from portfleet.config.settings import FORWARD, METRICS, SERVICE, TABLES
from portfleet.config.settings.table import Effect, Setting, Table
from portfleet.core import steps as s
from portfleet.core.errors import Problem
from reference import FILES, TOP
from support.fake_world import World
from support.fleets import fleet, machine

_MADE_UP = {
    "name",
    "services",
    "probe",
    "drain",
    "metrics",
    "page",
    "forward",
}  #: of the models, but not keys of theirs: tables, and their names
ROWS = [pytest.param(table, row, id=f"{table.path}.{row.key}") for table in TABLES for row in table.settings]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.path)
def test_every_field_of_the_model_has_a_row_and_no_other(table: Table) -> None:
    keys = [row.key for row in table.settings]
    assert len(keys) == len(set(keys))
    assert set(keys) == {field.name for field in fields(table.model)} - _MADE_UP


def read(row: Setting, toml: str) -> object:
    """Return what the row's kind reads ``toml`` as; it must find no problem."""
    problems: list[Problem] = []
    reader = Reader("", tomllib.loads(f"{row.key} = {toml}"), problems)
    value = row.kind.read(reader, row.key, default=None, example=row.example)
    assert problems == []
    return value


@pytest.mark.parametrize(("table", "row"), ROWS)
def test_its_example_is_one_and_not_the_default(table: Table, row: Setting) -> None:
    assert read(row, row.example) != table.defaults().get(row.key, "none")
    assert not row.shown or read(row, row.shown)


@pytest.mark.parametrize(("table", "row"), ROWS)
def test_its_default_is_the_models(table: Table, row: Setting) -> None:
    default = table.default(row)
    if default is None:
        assert row.asks is not None or row.unset, "what holds if the key is left out?"
    else:
        assert read(row, default) == table.defaults()[row.key]


@pytest.mark.parametrize(("table", "row"), ROWS)
def test_it_says_what_it_is_in_words_that_fit_the_example_and_the_reference(table: Table, row: Setting) -> None:
    assert row.brief and not row.brief.endswith(".")
    assert row.brief[0].islower() or row.brief[0] in "{\"'"
    assert not row.more or row.more.endswith(".")
    assert not row.change.endswith(".")


@pytest.mark.parametrize("name", FILES)
def test_what_is_generated_is_up_to_date(name: str) -> None:
    assert (TOP / name).read_text() == FILES[name](), "script/docs writes it anew"


#: Two services of the same keys: our own daemon, and one that cannot hand off.
OURS = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}"]
ports = "7100-7199"
instances = 3
release = "v1"
"""
FOREIGN = OURS.replace("portfleet-daemon", "redis-server")
ALARM = {"/usr/local/bin/portfleet-alarm": "/usr/local/bin/portfleet-alarm"}
HERE = machine(
    descriptors=30_000, users=("portfleet", "portfleet-metrics", "nobody"), paths=("/srv/echo",), commands=ALARM
)
#: Where the row's own example would not do: it is what the service has already, or needs another key.
VALUES = {
    "listen": '["0.0.0.0:7000"]',
    "command": '["redis-server", "--port", "{port}", "--save", ""]',
    "release": '"v2"',
    "ports": '"7200-7299"',
    "remote": '["203.0.113.2:7101"]',
    "weight": "{ 1 = 2 }",
    "environment_file": '"echo.env"',
    "exec": '["redis-server", "{port}"]',
    "status": '204\nhttp = "/"',
    "expect": '"PONG"\nsend = "PING"',
}


#: What a key's table needs of another.
BESIDE = {"page": '[metrics]\nlisten = "127.0.0.1:9797"\n'}
#: What [forward] needs for any other of its keys.
FORWARDED = "".join(f"{row.key} = {row.example}\n" for row in FORWARD.settings[:2])


def changed(base: str, table: Table, row: Setting) -> str:
    """Return the config ``base`` with another value for one key."""
    line = f"{row.key} = {VALUES.get(row.key if table is not METRICS else '', row.example)}\n"
    if table is SERVICE:
        lines = [line for line in base.splitlines() if not line.startswith(f"{row.key} =")]
        if row.key == "remote":  # which takes IPv4 only
            lines = [line.replace('":7000"', '"0.0.0.0:7000"') for line in lines]
        return "\n".join([*lines, line])
    if table is FORWARD and row.key not in ("addresses", "boxes"):
        line = f"{FORWARDED}{line}"
    elif table is FORWARD:
        line = FORWARDED
    return f"{base}{BESIDE.get(table.path, '')}[{table.path.replace('NAME', 'echo')}]\n{line}"


@pytest.mark.parametrize("base", [OURS, FOREIGN], ids=["ours", "foreign"])
@pytest.mark.parametrize(("table", "row"), ROWS)
def test_a_change_takes_what_it_says(tmp_path: Path, table: Table, row: Setting, base: str) -> None:
    world, after = World(tmp_path), fleet(changed(base, table, row), HERE)
    (world.paths.config.parent / "mosquitto.conf.in").write_text("listener {port}")
    secret = world.paths.config.parent / "echo.env"
    secret.write_text("TOKEN=abc")
    secret.chmod(0o600)
    world.apply(fleet(base, HERE))
    assert after != fleet(base, HERE)

    _, plan = world.plan(after)

    restarted = [step.name for step in plan.steps if isinstance(step, s.RestartInstance)]
    match row.effect:
        case Effect.AT_ONCE:
            assert restarted == []
            assert not [step for step in plan.steps if isinstance(step, s.StopInstances)]
        case Effect.RESTART:
            assert restarted == [f"echo-blue-{number}" for number in (1, 2, 3)]
        case Effect.CUTOVER:
            assert plan.steps == () and "cutover needed" in plan.notes[0]
        case Effect.DOWN:
            assert row.key in ("ports", "dataplane", "haproxy_processes"), "all that listens must listen elsewhere"
