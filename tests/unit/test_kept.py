"""A state of the kernel's tables is kept for as long as nothing can have changed it, and no longer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from portfleet.core import changes as c
from portfleet.core.access import Access, Range
from portfleet.core.model import Affinity, Listen
from portfleet.dataplane.nft import kept, memory
from portfleet.dataplane.nft.kept import Kept
from portfleet.dataplane.nft.memory import Memory

SERVICE = c.ServiceRule("echo", Affinity("source"), 1, 4)
INSTANCES = {
    name: c.InstanceRule(name, number, 7100 + number) for number, name in ((1, "echo-blue-1"), (2, "echo-blue-2"))
}
STATE = c.PlaneState(
    fleet=c.SetFleet("home", frozenset({(7100, 7107)})),
    services={"echo": SERVICE},
    instances=INSTANCES,
    slots={"echo": ("echo-blue-1", None, "echo-blue-2", "echo-blue-1")},
    pins={"echo": {"192.0.2.0/24": "echo-blue-2"}},
    access={"echo": Access(deny=(Range("192.0.2.1", "192.0.2.9"),))},
    listens={Listen(7000, None, (4, 6)): "echo"},
)


class Tables:
    """The kernel's tables: a generation, and what a look at them finds."""

    def __init__(self, directory: Path) -> None:
        self.path, self.memory = directory / "observed.json", Memory(directory / "rules.json")
        made: dict[str, memory.Setting] = {name: c.SetInstance(rule) for name, rule in INSTANCES.items()}
        self.memory.note(made | {"service-echo": c.SetService(SERVICE)}, dict.fromkeys([*made, "service-echo"], "d"))
        self.generation, self.state, self.looks = 1, STATE, 0

    def look(self) -> c.PlaneState:
        self.looks += 1
        return self.state

    def observe(self) -> c.PlaneState:
        return Kept(self.path, self.memory, lambda: self.generation).observe(self.look)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def test_it_is_looked_at_once_and_found_as_it_was(tables: Tables) -> None:
    assert [tables.observe() for _ in range(3)] == [STATE] * 3
    assert tables.looks == 1
    assert tables.path.stat().st_mode & 0o777 == 0o600


def _transaction(tables: Tables, _: pytest.MonkeyPatch) -> None:
    tables.generation += 1


def _other_memory(tables: Tables, _: pytest.MonkeyPatch) -> None:
    tables.memory.note({"echo-blue-1": c.SetInstance(replace(INSTANCES["echo-blue-1"], port=9))}, {"echo-blue-1": "e"})


def _no_memory(tables: Tables, _: pytest.MonkeyPatch) -> None:
    tables.memory.path.unlink()


def _other_namespace(_: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "network_namespace", lambda: 1)


def _no_cookie(_: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "network_namespace", lambda: None)


def _other_boot(_: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "boot", lambda: "another")


def _other_version(_: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "writer", lambda: "another")


def _torn(tables: Tables, _: pytest.MonkeyPatch) -> None:
    tables.path.write_bytes(tables.path.read_bytes()[:-9])


def _gone(tables: Tables, _: pytest.MonkeyPatch) -> None:
    tables.path.unlink()


def _bad_table(tables: Tables, _: pytest.MonkeyPatch) -> None:
    found = json.loads(tables.path.read_text())
    found["slots"]["echo"]["names"] = []
    tables.path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    "change",
    [
        _transaction, _other_memory, _no_memory, _other_namespace, _no_cookie, _other_boot, _other_version, _torn,
        _gone, _bad_table,
    ],
)  # fmt: skip
def test_it_is_looked_at_again_when_anything_may_have_changed(
    tables: Tables, change: Callable[[Tables, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.observe()
    change(tables, monkeypatch)
    tables.state = replace(STATE, slots={"echo": (None,) * 4})
    assert tables.observe() == tables.state and tables.looks == 2


@pytest.mark.parametrize(
    "state",
    [
        replace(STATE, drift=frozenset({"echo"})),
        replace(STATE, stale=frozenset({""})),
        replace(STATE, unsettled=frozenset({"echo"})),
        replace(STATE, instances={"echo-blue-1": None}),
        replace(STATE, access={"echo": Access(deny=(Range("192.0.2.1", "192.0.2.9", 1_700_000_000),))}),
        c.PlaneState(),
    ],
)
def test_what_is_not_as_it_was_set_or_ends_by_itself_is_not_kept(tables: Tables, state: c.PlaneState) -> None:
    tables.state = state
    assert [tables.observe(), tables.observe()] == [state] * 2
    assert tables.looks == 2 and not tables.path.exists()


def test_what_changed_while_it_was_looked_at_is_not_kept(tables: Tables) -> None:
    generations = iter([1, 2, 2, 2])
    found = Kept(tables.path, tables.memory, lambda: next(generations)).observe(tables.look)
    assert found == STATE and not tables.path.exists()
