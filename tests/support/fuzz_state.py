"""Damaged journals, state files and configs from a seed: what was written, with some values in it made wrong."""

from __future__ import annotations

import copy
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from portfleet.core.changes import PlaneState
from portfleet.core.derive import make_desired
from portfleet.core.errors import ConfigError, PortfleetError
from portfleet.core.journal import Journal, JournalError, from_json, to_json
from portfleet.core.observed import Observed
from portfleet.core.paths import resolve
from portfleet.core.records import Asked, ColourRecord, Moved
from portfleet.core.states import Presence
from portfleet.dataplane.nft.kept import Kept
from portfleet.dataplane.nft.memory import Memory, writer
from portfleet.linux.machine import boot, network_namespace
from portfleet.screen import colours
from portfleet.screen.status_rows import instance_entry, pins_of, service_entry
from portfleet.store import locks, warnings
from portfleet.store.out import read_out
from portfleet.supervise import adopted
from support.fleets import ECHO, PATHS, desired, fleet

TEXT = ECHO.replace(":7000", "0.0.0.0:7000") + 'remote = ["203.0.113.2:7101"]\n'
#: What no field takes, or only some do.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 101, 65536, 10**30, -(10**30), 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x",
    "٣", "-1", "9" * 300, "\0", "\x1b[31m", "a\nb", "v1 ;", "'", "../../x", "%(here)s", "echo-blue-99999999",
    "2026-02-31T12:00:00Z", "2026-01-31T12:00:00+01:00", "198.18.0.1/8", "224.0.0.1", "fe80::1%eth0", "green",
    [], {}, [[]], [None], ["x"], {"x": 1}, {"": {}},
)  # fmt: skip
_TOML_ODD = (
    "0", "-1", "1e30", "10" * 40, "nan", "true", '""', '"x"', '"٣"', '"9s"', '"-1s"', '"\\u0000"', '"\\u001b[1m"', "[]",
    "{}", "[[]]", '["x"]', '{ x = 1 }', "1979-05-27", '":0"', '":70000"', '"224.0.0.1:1"', '"[::1"', '"7100-7107"',
)  # fmt: skip
_JOURNAL_BEFORE = Path(__file__).parents[1] / "unit" / "golden" / "journal-version-1.json"


def sample() -> dict[str, Any]:
    """Return a journal in which every field has a value, as JSON values."""
    journal = desired(TEXT).journal
    moment = "2026-01-31T12:00:00Z"
    record = replace(
        journal.services["echo"],
        asked={"echo-blue-1": Asked("drained", moment, "ann@box", "disk")},
        colours={
            "blue": ColourRecord("v1", ("a", "{port}"), moment),
            "green": ColourRecord("v2", None, moment, True, moment),
        },
        config_release="v1", canary=5, moved={"2": Moved("3", 25)}, instances=3, config_instances=4, leaving=4,
        pins={"198.18.0.7/32": "2", "2001:db8::/32": "1"},
    )  # fmt: skip
    before = from_json(json.loads(_JOURNAL_BEFORE.read_text()))
    operations = tuple(replace(operation, service="echo") for operation in before.operations)
    made = replace(journal.with_service("echo", record), operations=operations, history=before.history)
    found: dict[str, Any] = json.loads(json.dumps(to_json(made)))
    return found


def damaged(data: Any, chance: random.Random) -> Any:
    """Return a copy of JSON values with one to three places in it made wrong: another value, one less, one more."""
    found = copy.deepcopy(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = [place for place in _places(found) if not isinstance(place[0], list) or len(place[0]) < 100]
        if not places:
            return chance.choice(ODD)
        holder, key = chance.choice(places)
        match chance.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(chance.choice(ODD))] = chance.choice((holder[key], *ODD))
            case _:
                holder[key] = copy.deepcopy(chance.choice(ODD))
    return found


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Return every (holder, key) in JSON values."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield data, key
        yield from _places(value)


def text_of(data: Any, chance: random.Random) -> str:
    """Return JSON values as a file has them; some files are torn, or nest without end."""
    text = json.dumps(data)
    match chance.randrange(12):
        case 0:
            return text[: chance.randrange(len(text))]
        case 1:
            return chance.choice("[{") * 100_000
        case 2:
            return text.replace("1", "9" * 5000, 1)
    return text


def try_journal(data: Any) -> bool:
    """Do with a journal what every verb does; return whether it was taken for one. Only PortfleetError may come out."""
    try:
        journal = from_json(json.loads(json.dumps(data)))
    except JournalError:
        return False
    try:
        _use(journal)
    except PortfleetError:
        return False
    return True


def _use(journal: Journal) -> None:
    assert from_json(json.loads(json.dumps(to_json(journal)))) == journal
    made = make_desired(fleet(TEXT), journal, PATHS)
    assert journal.next_number() and next(made.journal.free_numbers())
    for service in made.services.values():
        table = service.table((None,) * service.service.slots)
        assert len(table) == service.service.slots
        observed = Observed(plane=PlaneState(), supervisord=Presence.RUNNING)
        asked = made.journal.services[service.name].asked
        json.dumps(service_entry(service, observed, made.journal, PATHS))
        json.dumps([instance_entry(want, observed, Counter(), PATHS, asked) for want in service.instances])
        colours.lines(service, observed, made.journal)
        pins_of(service, made.journal)


def try_states(directory: Path, chance: random.Random) -> None:
    """Write damaged files of run/ and read each as its readers do: nothing may come out but what fits."""
    out = {"echo-blue-1": {"kind": "died", "since": "2026-01-31T12:00:00Z", "reason": "process 7 ended"}}
    processes = {"echo-blue-1": [7, 12345], "echo-blue-2": [8, 12345]}
    warned = [{"name": "files", "since": "2026-01-31T12:00:00Z", "text": "x", "hint": "y"}]
    holder = {"who": "ann@box", "since": "2026-01-31T12:00:00Z", "why": "apply", "pid": 7}
    rules = {
        "base": {"made": {"home": "x"}, "digest": "d", "text": "t", "by": "b"},
        "echo-blue-1": {"made": {"rule": _rule()}, "digest": "d", "text": "t", "by": "b"},
    }
    (directory / "rules.json").write_text(json.dumps(rules))
    remembered = Memory(directory / "rules.json")
    observed = _observed(remembered)
    path = directory / "processes.json"
    for kind, read in (
        (out, lambda: [vars(entry) for entry in read_out(path).values()]),
        (processes, lambda: adopted.alive(replace(resolve(home=str(directory), config=None), lib=directory))),
        (warned, lambda: [vars(entry) for entry in warnings.read(path)]),
        (holder, lambda: locks.holder_of(path)),
        (rules, lambda: [Memory(path).rule(name) or Memory(path).current(name) for name in rules]),
        (observed, lambda: Kept(path, remembered, lambda: 1).observe(PlaneState)),
    ):
        path.write_text(text_of(damaged(kind, chance), chance))
        read()


def _observed(memory: Memory) -> dict[str, Any]:
    return {
        "key": [boot(), network_namespace() or 0, 1, writer(), *(memory.stamp() or ())],
        "home": "x",
        "ports": [[7100, 7107]],
        "services": [],
        "instances": ["echo-blue-1"],
        "slots": {"echo": {"names": ["echo-blue-1", None], "slots": "AAABAA=="}},
        "pins": {"echo": {"192.0.2.0/24": "echo-blue-1"}},
        "access": {"echo": {"allow": [], "deny": []}},
        "listens": [{"listen": {"port": 7000, "address": None, "families": [4, 6]}, "service": "echo"}],
    }


def _rule() -> dict[str, Any]:
    return {
        "name": "echo-blue-1", "number": 1, "port": 7101, "remote": None, "sticky": None,
        "key": {"kind": "source", "prefix4": 32, "prefix6": 64}, "limit": 0, "spills": True,
    }  # fmt: skip


def damaged_config(chance: random.Random) -> str:
    """Return a config with one to three values made wrong."""
    lines = (Path(__file__).parents[2] / "examples" / "fleet.toml").read_text().splitlines()
    lines = [line.removeprefix("# ") if re.match(r"# [a-z_]+ +=", line) else line for line in lines]
    for _ in range(chance.randrange(1, 4)):
        at = chance.choice([number for number, line in enumerate(lines) if "=" in line])
        match chance.randrange(8):
            case 0:
                lines[at] = lines[at][: chance.randrange(len(lines[at]))]
            case 1:
                lines.insert(at, lines[at])
            case 2:
                lines[at] = "[" * 100_000
            case _:
                lines[at] = f"{lines[at].partition('=')[0]}= {chance.choice(_TOML_ODD)}"
    return "\n".join(lines) + "\n"


def try_config(text: str) -> bool:
    """Load a config; return whether it is one. Only ConfigError may come out."""
    try:
        fleet(text)
    except ConfigError:
        return False
    return True
