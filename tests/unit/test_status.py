"""What `status` says of an instance, from values."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from portfleet.core.changes import PlaneState
from portfleet.core.observed import Observed, ObservedInstance, Out, Retry
from portfleet.core.records import Asked
from portfleet.core.states import State, still_draining
from portfleet.screen.status_rows import instance_entry
from support.fleets import ECHO, PATHS, desired

NAME, REMOTE = "echo-blue-1", "echo-remote-1"
STARTED = ObservedInstance("RUNNING", 7, since=1_700_000_000, ready=True)
TEXT = ECHO.replace(":7000", "0.0.0.0:7000") + 'remote = ["203.0.113.2:7101"]\n'


def entry(
    name: str, seen: ObservedInstance, *, asked: Asked | None = None, out: Out | None = None, retry: Retry | None = None
) -> dict[str, object]:
    """Return the entry of an instance without slots."""
    journal = desired(TEXT).journal
    record = replace(journal.services["echo"], asked={name: asked} if asked else {})
    made = desired(TEXT, journal.with_service("echo", record))
    want = next(want for want in made.instances() if want.name == name)
    outs, retries = {name: out} if out else {}, {name: retry} if retry else {}
    observed = Observed(PlaneState(), instances={name: seen}, out=outs, retries=retries)
    return instance_entry(want, observed, Counter(), PATHS, record.asked)


@pytest.mark.parametrize("connections", [0, 3])
@pytest.mark.parametrize("wanted", ["drained", "maintenance"])
def test_since_when_is_when_it_was_asked_for(wanted: str, connections: int) -> None:
    asked = Asked(wanted, "2026-01-02T03:04:05Z", "op")  # type: ignore[arg-type] # one of the two
    found = entry(NAME, replace(STARTED, connections=connections), asked=asked)
    assert found["state"] == (State.DRAINING if connections else wanted)
    assert found["since"] == "2026-01-02T03:04:05Z"


def test_since_when_is_else_by_its_process_or_by_the_watcher() -> None:
    assert entry(NAME, STARTED)["since"] == "2023-11-14T22:13:20Z"
    assert entry(NAME, STARTED, out=Out("probe", "2026-01-01T00:00:00Z", "hangs"))["since"] == "2026-01-01T00:00:00Z"


def test_a_remote_instance_is_what_is_known_of_it() -> None:
    away = Out("probe", "2026-01-01T00:00:00Z", "timed out")
    asked = Asked("drained", "2026-01-02T03:04:05Z", "op")
    assert entry(REMOTE, ObservedInstance(ready=True))["state"] is State.READY
    assert entry(REMOTE, ObservedInstance(waiting="has not answered"))["state"] is State.STARTING
    assert entry(REMOTE, ObservedInstance(ready=True), out=away)["state"] is State.EJECTED
    assert entry(REMOTE, ObservedInstance(ready=True), asked=asked)["state"] is State.DRAINED


@pytest.mark.parametrize("out", [None, Out("died", "2026-01-01T00:00:00Z", "process 7 ended")])
@pytest.mark.parametrize("program", ["STOPPED", "EXITED", "UNKNOWN"])
def test_an_instance_that_waits_for_its_next_start_has_failed_and_says_when_that_is(
    program: str, out: Out | None
) -> None:
    retry = Retry("crash loop", "2026-01-01T00:00:16Z", 5)
    found = entry(NAME, ObservedInstance(program), out=out, retry=retry)
    assert found["state"] is State.FAILED and found["why"] == "crash loop"
    assert (found["next_try"], found["attempt"]) == ("2026-01-01T00:00:16Z", 5)
    again = entry(NAME, replace(STARTED, ready=False), out=out, retry=retry)
    assert again["state"] is (State.EJECTED if out else State.STARTING) and again["next_try"] is None


def test_what_is_drained_drains_while_it_has_connections_that_only_the_kernel_counts() -> None:
    for state, there, shown in (("drained", 3, "draining"), ("drained", 0, "drained"), ("ready", 3, "ready")):
        assert still_draining(State(state), there) == shown
