"""How many connections there are, before a verb says what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from portfleet.core.changes import PlaneState
from portfleet.core.observed import Observed, ObservedInstance
from portfleet.core.status import DaemonState, Status
from portfleet.submit import closing

NAMES = ("kv-blue-1", "kv-blue-2")


def counted(
    monkeypatch: pytest.MonkeyPatch, looks: Sequence[tuple[int, int]], status: Status | None
) -> tuple[int, int]:
    """Return the number that `closing.counted` finds, and after how many of ``looks``."""
    monkeypatch.setattr(closing, "_MOMENT", 0)
    made: list[Observed] = []

    def look() -> Observed:
        found = dict(zip(NAMES, looks[len(made)], strict=True))
        made.append(
            Observed(
                PlaneState(), instances={n: ObservedInstance(connections=c, status=status) for n, c in found.items()}
            )
        )
        return made[-1]

    return closing.counted(look, lambda _: NAMES)[1], len(made)


@pytest.mark.parametrize(
    ("looks", "found"),
    [
        ([(0, 0)], (0, 1)),
        ([(40, 40), (40, 40)], (80, 2)),
        ([(41, 40), (40, 40), (40, 40)], (80, 3)),  # a probe was under way
        ([(1, 0), (0, 0)], (0, 2)),
        ([(1, 0), (0, 1), (1, 0), (1, 1), (0, 0)], (0, 5)),  # one probe or the other, each time
        ([(1, 1), (1, 1), (1, 1), (1, 1), (1, 1)], (2, 5)),
        ([(40, 40), (41, 40), (41, 41), (40, 40), (39, 40)], (79, 5)),  # they come and go
    ],
)
def test_what_sockets_say_counts_when_two_looks_agree_and_few_when_five_do(
    monkeypatch: pytest.MonkeyPatch, looks: list[tuple[int, int]], found: tuple[int, int]
) -> None:
    assert counted(monkeypatch, looks, None) == found


def test_what_the_daemons_say_of_many_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    says = Status(DaemonState.READY, 40)
    assert counted(monkeypatch, [(40, 40)], says) == (80, 1)
    assert counted(monkeypatch, [(1, 1), (1, 0), (1, 0), (1, 1), (1, 0)], says) == (
        1,
        5,
    )  # as few as their probes may be
