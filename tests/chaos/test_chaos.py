"""Every kind of fault under load, in an order of the seed's choosing. Longer: `script/soak MINUTES`, and `watched`."""

from __future__ import annotations

import os
import random

import pytest

from chaos.watched import watched
from support.chaos import KINDS, soak


@pytest.mark.long
def test_every_fault_costs_only_what_it_hits() -> None:
    seed = int(os.environ.get("PORTFLEET_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PORTFLEET_CHAOS_SEED={seed} does the same again")
    report = soak(seed=seed, seconds=0, at_least=1)
    print(report.text())
    assert min(report.counts().values()) >= 1 and set(report.counts()) == set(KINDS), report.text()
    assert report.connects > 0 and report.replies > 0
    assert (report.refused, report.lost_beside) == (0, 0), report.text()


@pytest.mark.long
def test_every_fault_shows_in_the_events_and_in_the_metrics() -> None:
    seed = int(os.environ.get("PORTFLEET_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PORTFLEET_CHAOS_SEED={seed} does the same again")
    seen = watched(seed=seed, seconds=0)
    print("\n".join(one.line for one in seen))
    assert {one.fault.kind for one in seen} == set(KINDS)
    assert [one.line for one in seen if not (one.event and one.metric)] == []
