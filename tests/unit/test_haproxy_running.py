"""Changes that HAProxy refuses, as what it had said of itself was out of date."""

from __future__ import annotations

from pathlib import Path

import pytest

from portfleet.core import changes as c
from portfleet.core.errors import PortfleetError
from portfleet.core.model import Affinity
from portfleet.dataplane.haproxy import running
from portfleet.dataplane.haproxy.client import Client
from portfleet.dataplane.haproxy.state import State, Unit
from portfleet.dataplane.haproxy.text import Place

_STATE = State(units={"echo": Unit(rule=c.ServiceRule("echo", Affinity("source"), 1, 16))})


def bring(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, int]) -> list[dict[str, int]]:
    """Bring a service up to date whose servers are told by ``answers``; return what each try went by.

    What is there by the second answer is refused to be added.
    """
    told, tries = iter(answers), list[dict[str, int]]()

    def tried(_: Client, __: str, ___: Unit, has: dict[str, int], ____: Place) -> None:
        tries.append(has)
        if "one" not in has:
            raise PortfleetError("HAProxy refused a change: Already exists a server with the same name in backend.")

    monkeypatch.setattr(running, "_bring", tried)
    monkeypatch.setattr(Client, "weights", lambda _: {"echo": next(told)})
    client, place = Client(1, Path("socket"), Path("master")), Place(Path("run"), 1)
    running.bring(client, _STATE, ["echo"], place)
    return tries


def test_what_a_replaced_worker_had_told_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bring(monkeypatch, {}, {"one": 0}) == [{}, {"one": 0}]
    assert bring(monkeypatch, {"one": 1}) == [{"one": 1}]


def test_what_is_refused_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PortfleetError, match="Already exists"):
        bring(monkeypatch, {}, {}, {})
