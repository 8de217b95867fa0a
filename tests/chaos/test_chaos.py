"""Every kind of fault under load, in an order of the seed's choosing. The long form is `script/soak MINUTES`."""

from __future__ import annotations

import os
import random

from support.chaos import KINDS, soak


def test_every_fault_costs_only_what_it_hits() -> None:
    seed = int(os.environ.get("PORTFLEET_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PORTFLEET_CHAOS_SEED={seed} does the same again")
    report = soak(seed=seed, seconds=0, at_least=1)
    print(report.text())
    assert min(report.counts().values()) >= 1 and set(report.counts()) == set(KINDS), report.text()
    assert report.connects > 0 and report.replies > 0
    assert (report.refused, report.lost_beside) == (0, 0), report.text()
