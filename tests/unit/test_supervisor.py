"""What is asked of supervisord for many programs: in few calls, of an earlier version one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portfleet.core.errors import PortfleetError
from portfleet.supervise import rpc
from portfleet.supervise.supervisor import (
    ALREADY_ADDED,
    ALREADY_STARTED,
    BAD_NAME,
    NO_FILE,
    SPAWN_ERROR,
    STILL_RUNNING,
    UNKNOWN_METHOD,
    Supervisor,
)

NAMES = tuple(f"a-blue-{number}" for number in range(1, 601))


class Supervisord:
    """Answers as supervisord does; ``faults`` are {(method, name): code}, ``at_once`` how many calls it does in one."""

    def __init__(self, *, at_once: int = 100, early: bool = False) -> None:
        self.at_once, self.early = at_once, early
        self.faults: dict[tuple[str, str], int] = {}
        self.done: list[tuple[str, ...]] = []
        self.calls = 0

    def call(self, _: Path, method: str, *arguments: Any, seconds: float, goes_on: Callable[[], bool]) -> Any:
        assert seconds > 0 and not goes_on()
        self.calls += 1
        if method != "portfleet.each":
            fault = self._do(method.removeprefix("supervisor."), *arguments)
            if fault is not None:
                raise rpc.RpcFault(*fault)
            return True
        if self.early:
            raise rpc.RpcFault(UNKNOWN_METHOD, "UNKNOWN_METHOD")
        return json.dumps([self._do(*call) for call in json.loads(arguments[0])[: self.at_once]])

    def _do(self, method: str, name: str, *_: Any) -> tuple[int, str] | None:
        self.done.append((method, name))
        code = self.faults.get((method, name))
        return None if code is None else (code, f"FAULT: {name}")


@pytest.fixture(params=[False, True], ids=["this version", "an earlier one"])
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Supervisord:
    made = Supervisord(early=request.param)
    monkeypatch.setattr(rpc, "call", made.call)
    return made


def test_each_is_added_and_started_once_and_all_that_cannot_be_are_told(there: Supervisord) -> None:
    there.faults |= {("startProcess", NAMES[0]): NO_FILE, ("startProcess", NAMES[1]): ALREADY_STARTED}
    there.faults |= {("startProcess", NAMES[2]): SPAWN_ERROR, ("addProcessGroup", NAMES[3]): ALREADY_ADDED}
    assert Supervisor(Path("s")).start(*NAMES).keys() == {NAMES[0]}
    assert there.done == [(method, name) for method in ("addProcessGroup", "startProcess") for name in NAMES]


def test_many_take_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Supervisord()
    monkeypatch.setattr(rpc, "call", there.call)
    Supervisor(Path("s")).stop(*NAMES)
    assert len(there.done) == len(NAMES) and there.calls == len(NAMES) / there.at_once


def test_those_that_still_run_are_not_removed(there: Supervisord) -> None:
    there.faults |= {("removeProcessGroup", NAMES[0]): STILL_RUNNING, ("removeProcessGroup", NAMES[1]): BAD_NAME}
    assert Supervisor(Path("s")).remove(*NAMES) == {*NAMES} - {NAMES[0]}


def test_what_is_not_expected_is_raised_with_the_program(there: Supervisord) -> None:
    there.faults[("signalProcess", NAMES[5])] = 99
    with pytest.raises(PortfleetError, match=f"supervisord: {NAMES[5]}: FAULT"):
        Supervisor(Path("s")).signal("TERM", *NAMES)


def test_nothing_is_asked_about_none(there: Supervisord) -> None:
    assert Supervisor(Path("s")).start() == {} and there.calls == 0
