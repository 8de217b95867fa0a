"""The example that `portfleet init` writes: it loads, and it mentions every key there is."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields

import pytest

from portfleet.config.example import example
from portfleet.config.load import load
from portfleet.core.model import Fleet, Metrics, Page, Service
from portfleet.core.policies import Drain, Forward, Probe
from support.fleets import machine

EXAMPLE = example()
#: Keys in a comment, as in "# sticky    = "off"  # words".
_COMMENTED = re.compile(r"^# (?=[a-z_]+ *= )", re.MULTILINE)
_MADE_UP = {"name", "services", "metrics", "page", "forward"}  #: of the model, but not keys: the tables' names


def keys_by_table() -> dict[str, set[str]]:
    """Return the keys of the example by table, those in comments too."""
    document = tomllib.loads(_COMMENTED.sub("", EXAMPLE))
    echo = document["service"]["echo"]
    tables = {"service": echo, "probe": echo["probe"], "drain": echo["drain"], "fleet": document["fleet"]}
    tables |= {name: document[name] for name in ("metrics", "page", "forward")}
    return {name: set(table) for name, table in tables.items()}


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("service", Service),
        ("probe", Probe),
        ("drain", Drain),
        ("fleet", Fleet),
        ("forward", Forward),
        ("metrics", Metrics),
        ("page", Page),
    ],
)
def test_every_key_of_the_model_is_mentioned_and_no_other(table: str, kind: type) -> None:
    assert keys_by_table()[table] == {field.name for field in fields(kind)} - _MADE_UP


def test_it_loads_as_it_is() -> None:
    service = load(EXAMPLE.encode(), machine(), source="example").services["echo"]

    assert (service.name, service.instances, service.ports, service.control) == ("echo", 4, (7100, 7199), "auto")


def test_it_loads_with_every_key_set_and_what_it_calls_defaults_are_the_defaults() -> None:
    alarm = "/usr/local/bin/portfleet-alarm"
    here = machine(paths=("/srv/echo",), users=("portfleet", "portfleet-metrics", "nobody"), commands={alarm: alarm})
    plain = load(EXAMPLE.encode(), here, source="example").services["echo"]
    text = _COMMENTED.sub("", EXAMPLE).replace('listen      = [":7000"]', 'listen = ["0.0.0.0:7000"]')
    text = re.sub(r"^(http|exec|status) .*", "", text, flags=re.MULTILINE)  # a probe asks in one way, here by `send`

    full = load(text.encode(), here, source="example").services["echo"]

    # The others are examples of what has no default: a user, a directory, weights, remote boxes.
    for key in (
        "slots",
        "affinity",
        "sticky_size",
        "max_connections",
        "overflow",
        "when_empty",
        "start_timeout",
        "control",
    ):
        assert getattr(full, key) == getattr(plain, key), key
    assert (full.drain.deadline, full.drain.then) == (plain.drain.deadline, plain.drain.then)
    kept = ("interval", "timeout", "fall", "rise", "restart_after")
    assert [getattr(full.probe, key) for key in kept] == [getattr(plain.probe, key) for key in kept]
