"""Adversaries beside a service under faults and load. The long form is `script/soak adversary MINUTES`."""

from __future__ import annotations

import pytest

from support.adversary import besiege
from support.rights import needs_another_user


@pytest.mark.long
@needs_another_user
def test_adversaries_get_nothing_and_cost_others_nothing() -> None:
    kinds = ("kill -9 of an instance", "kill -9 of the watcher", "nft flush ruleset")
    report, tries = besiege(seed=1, seconds=0, kinds=kinds)
    assert tries > 1000 and report.connects > 0 and report.replies > 0
    assert (report.refused, report.lost_beside) == (0, 0), report.text()
