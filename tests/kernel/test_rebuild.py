"""A lost journal is rebuilt from the kernel's table: the same slots, marks and colour, however clients are spread."""

from __future__ import annotations

from dataclasses import replace

import pytest

from portfleet.core.derive import make_desired
from portfleet.core.journal import Journal
from portfleet.core.plan import make_plan
from portfleet.core.rebuild import rebuild
from portfleet.core.records import ColourRecord
from support.fleets import PATHS, fleet
from support.plane import ECHO, Plane

AFFINITIES = ["source", "source/24/56", "connection", "round-robin", "random"]


@pytest.mark.parametrize("extra", ["", 'sticky = "1h"\nmax_connections = 50\n'])
@pytest.mark.parametrize("affinity", AFFINITIES)
def test_the_journal_is_what_it_was(rules: Plane, affinity: str, extra: str) -> None:
    text = ECHO.replace("portfleet-daemon", "redis-server") + f'affinity = "{affinity}"\n' + extra
    rules.load(text)
    first = rules.journal.services["echo"]
    live = replace(first, live="green", colours=dict.fromkeys(("blue", "green"), ColourRecord()), seed=0x5EED)
    rules.load(text, Journal({"echo": live}))
    assert set(rules.kernel.read_slots("echo")) == {f"echo-green-{number}" for number in (1, 2, 3, 4)}

    found = rebuild(fleet(text), rules.kernel.recover(), []).services["echo"]

    hashed = affinity not in ("round-robin", "random")
    assert (found.live, found.home, found.numbers) == ("green", live.home, live.numbers)
    assert found.seed == (0x5EED if hashed else first.seed)
    rules.desired = make_desired(fleet(text), Journal({"echo": found}), PATHS)
    again = make_plan(rules.desired, rules.observed()).describe()
    assert not any(words.startswith("point") for words in again), again


def test_where_nothing_is_nothing_is_rebuilt(rules: Plane) -> None:
    assert rebuild(fleet(ECHO), rules.kernel.recover(), []) == Journal()
