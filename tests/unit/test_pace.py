"""Looks at everything: the more one took, the later the next, between ten seconds and a minute."""

from __future__ import annotations

import pytest

from portfleet.watch.pace import Pace


class _Times:
    """A clock, and the processor time that a thread has used."""

    def __init__(self) -> None:
        self.now, self.used = 1000.0, 5.0
        self.pace = Pace(lambda: self.now, lambda: self.used)

    def work(self, seconds: float) -> None:
        self.used += seconds

    def look(self, *parts: float) -> float:
        """Look, in parts that take processor time, and return after how many seconds the next look is due."""
        self.pace.begin()
        for part in parts:
            self.pace.spend(lambda part=part: self.work(part))  # type: ignore[misc]
        self.pace.end()
        return self.wait()

    def wait(self) -> float:
        began = self.now
        while not self.pace.due:
            self.now += 1
        return self.now - began


@pytest.mark.parametrize(
    ("parts", "seconds"), [((0.001,), 10), ((), 10), ((0.05, 0.05), 30), ((0.25,), 60), ((5.0,), 60)]
)
def test_the_next_look_is_as_late_as_the_last_was_dear(parts: tuple[float, ...], seconds: int) -> None:
    times = _Times()
    assert times.pace.due, "the first is due at once"
    assert times.look(*parts) == pytest.approx(seconds, abs=1)
    assert times.look() == 10, "each counts for itself"


def test_a_look_that_fails_is_repeated_after_ten_seconds() -> None:
    times = _Times()
    times.pace.begin()
    with pytest.raises(ZeroDivisionError):
        times.pace.spend(lambda: 1 / 0)
    assert times.wait() == 10


def test_who_hurries_is_looked_at_now_though_a_look_is_under_way() -> None:
    times = _Times()
    times.pace.begin()
    times.pace.end()
    assert not times.pace.due
    times.pace.hurry()
    assert times.pace.due
    times.pace.begin()
    times.pace.spend(lambda: times.work(0.1))
    times.pace.hurry()
    times.pace.end()
    assert times.pace.due
