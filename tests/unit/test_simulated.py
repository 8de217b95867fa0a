"""Schedules of the simulated fleet, the first of as many as `script/soak simulate` is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from portfleet.operations import drain
from portfleet.operations.empty import Ended
from support.simulated import WRONGS, Schedule, simulate

#: Seeds a test, so that the processes of a run share them.
_EACH = 50


@pytest.mark.early
@pytest.mark.parametrize("first", [pytest.param(n, marks=[pytest.mark.long] * (n > 0)) for n in range(0, 1000, _EACH)])
def test_whatever_goes_wrong_in_whatever_order_what_is_promised_holds(first: int) -> None:
    schedules = [simulate(seed) for seed in range(first, first + _EACH)]
    done = set().union(*(schedule.wrong for schedule in schedules))
    assert len(done) >= len(WRONGS) - 2  # by chance one may not be drawn
    told = "\n".join(line for schedule in schedules for line in schedule.told)
    assert "the watcher is killed" in told and "another operator" in told and "refused" in told


def test_a_seed_does_the_same_again(directory: Path) -> None:
    told = [Schedule(seed, directory / name) for name, seed in (("a", 7), ("b", 7), ("c", 8))]
    for schedule in told:
        schedule.run()
    assert told[0].told == told[1].told != told[2].told


def test_a_part_that_does_not_do_its_work_is_found_and_the_seed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def let_end(*_: object, **__: object) -> Ended:
        await asyncio.sleep(0)
        return Ended(0)

    monkeypatch.setattr(drain, "let_end", let_end)
    with pytest.raises(AssertionError, match="lost") as caught:
        for seed in range(200):
            simulate(seed)
    assert "script/soak simulate 1 " in caught.value.__notes__[0]
