"""The phases of an operation as the benchmarks read them from the fleet's events."""

from __future__ import annotations

import json
import time

import pytest
from benchmarks.lib.phases import phases_of


def event(kind: str, at: str, **more: str) -> str:
    return json.dumps({"time": f"2026-01-31T12:00:{at}Z", "kind": kind, **more})


LAST = [
    event("operation-begun", "10.000"),
    event("operation-phase", "10.250", phase="begin"),
    event("ready", "10.500"),
    event("operation-phase", "12.000", phase="moving"),
    event("operation-ended", "12.125"),
]


def test_the_last_operation_counts() -> None:
    earlier = [event("operation-begun", "01.000"), event("operation-phase", "02.000", phase="begin")]
    found = phases_of([*earlier, *LAST])
    assert [(one.name, round(one.seconds, 3)) for one in found] == [
        ("accepted", 0.25), ("begin", 1.75), ("moving", 0.125),
    ]  # fmt: skip
    now = 1769860810.0 - (time.time() - time.monotonic())
    assert found[0].began == pytest.approx(now, abs=1.0)


def test_without_an_operation_there_is_nothing_to_measure() -> None:
    with pytest.raises(LookupError, match="no operation has ended"):
        phases_of(LAST[2:3])
