"""What operations decide by values alone: canary, rebalance, releases, options, scaling, the bar."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portfleet.commands.cancel import code_of
from portfleet.core import typed
from portfleet.core.balance import next_move, ratio
from portfleet.core.canary import Counted, judge
from portfleet.core.counters import Counters, add
from portfleet.core.journal import HistoryEntry, Journal, from_json, to_json
from portfleet.core.operations import Operation
from portfleet.core.records import ColourRecord, ServiceRecord
from portfleet.core.work.rebalance import Rebalance
from portfleet.core.work.restart import Restart
from portfleet.operations.releases import older
from portfleet.screen.bar import line
from portfleet.submit import options
from support.fleets import desired


def counted(requests: int, errors: int, counts: list[int]) -> Counters:
    return Counters(requests, errors, tuple(zip((100.0, 200.0, 400.0, float("inf")), counts, strict=True)))


def test_a_canary_is_judged_by_errors_and_p99_against_the_live_colour() -> None:
    live = add([counted(1000, 0, [990, 10, 0, 0]), counted(1000, 0, [1000, 0, 0, 0])])
    fine = add([counted(100, 0, [99, 1, 0, 0])])
    assert judge(fine, live, max_errors=1, max_p99=2) == ""
    slow = add([counted(100, 0, [50, 20, 30, 0])])
    assert judge(slow, live, max_errors=1, max_p99=2) == "its p99 is 400 µs, over 2 × the live colour's 100 µs"
    assert judge(slow, live, max_errors=1, max_p99=5) == ""
    broken = add([counted(95, 5, [95, 0, 0, 0])])
    assert judge(broken, live, max_errors=1, max_p99=2).startswith("5.0 % of its requests fail, 1 % may")
    both_broken = add([counted(900, 100, [900, 0, 0, 0])])
    assert judge(broken, both_broken, max_errors=1, max_p99=2) == ""  # the live colour fails more
    assert judge(add([counted(5, 5, [5, 0, 0, 0])]), live, max_errors=1, max_p99=2) == ""  # too few to tell


def test_counters_since() -> None:
    before, after = add([counted(10, 1, [10, 0, 0, 0])]), add([counted(30, 2, [10, 20, 0, 0])])
    assert after.since(before) == Counters(20, 1, ((100, 0), (200, 20), (400, 0), (float("inf"), 0)))
    assert after.since(before).quantile(0.5) == 200
    assert Counters().quantile(0.99) == 0.0


def test_counters_come_back_from_the_journal_as_they_were() -> None:
    counters = add([counted(30, 2, [10, 20, 0, 5])])
    kept = json.loads(json.dumps(typed.write(Counted.of(counters)), allow_nan=False))
    assert typed.read(Counted, kept, where="canary").counters() == counters


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=12), st.floats(1.0, 3.0))
def test_rebalancing_ends_within_the_limit_or_as_even_as_whole_numbers_can_be(found: list[int], limit: float) -> None:
    counts = {str(number): count for number, count in enumerate(found)}
    total, steps = sum(found), 0
    while (step := next_move(counts, limit=limit)) is not None:
        sender, receiver, count = step
        assert count > 0 and counts[sender] >= count
        counts = counts | {sender: counts[sender] - count, receiver: counts[receiver] + count}
        steps += 1
        assert steps <= 2 * len(found)
    assert sum(counts.values()) == total
    assert ratio(counts) <= limit or max(counts.values()) - total / len(counts) < len(counts)


def entry(number: int, release: str) -> HistoryEntry:
    return HistoryEntry(number, "", "", "echo", "cutover", "", "", release=release)


def test_releases_older_than_those_kept() -> None:
    colours = {"blue": ColourRecord("v5"), "green": ColourRecord("v4")}
    record = ServiceRecord("blue", 1, (), colours=colours)  # type: ignore[arg-type] # a literal's keys are str
    history = tuple(entry(number, f"v{number}") for number in range(1, 6))
    journal = Journal({"echo": record}, history=history)
    assert older(journal, "echo", 3) == ["v2", "v1"]
    assert older(journal, "echo", 1) == ["v3", "v2", "v1"]  # both colours' are kept
    assert older(journal, "echo", 9) == []


def test_scaling_keeps_slots_and_marks_and_ends_when_the_config_changes() -> None:
    first = desired().journal
    four = first.services["echo"]
    assert len(four.numbers) == 8
    record = replace(four, instances=2, config_instances=4, leaving=4)
    want = desired(journal=first.with_service("echo", record)).services["echo"]
    assert want.service.instances == 2 and len(want.instances) == 8
    assert {i.name for i in want.instances if i.takes} == {"echo-blue-1", "echo-blue-2"}
    moved = sum(a != b for a, b in zip(four.home, want.home, strict=True))
    assert moved == 2048 and set(want.home) == {"1", "2"}  # only what had to
    gone = desired(journal=first.with_service("echo", replace(record, leaving=0))).services["echo"]
    assert len(gone.instances) == 4 and gone.home == want.home
    other = replace(record, config_instances=3, leaving=0)  # scaled when the config said 3: the config counts now
    assert desired(journal=first.with_service("echo", other)).services["echo"].service.instances == 4


def test_one_that_leaves_gets_no_slot_when_another_is_out() -> None:
    first = desired().journal
    record = replace(first.services["echo"], instances=2, config_instances=4, leaving=4)
    want = desired(journal=first.with_service("echo", record)).services["echo"]
    table = want.table(want.table(()), out=frozenset({"echo-blue-1"}))
    assert {*table} == {"echo-blue-2"}


def test_the_journal_keeps_operations_and_history() -> None:
    work = Restart(instances=("a", "b"), at_once=1, handoff=True, asked={}, done=("a",))
    operation = Operation(3, "echo", "w", "me", "now", work, owned=("a",), failed="f", resumed="r")
    ended = HistoryEntry(2, "", "", "echo", "cutover", "", "", release="v1", command=("a", "b"), code=4)
    journal = Journal(operations=(operation,), history=(ended,))
    assert from_json(to_json(journal)) == journal
    assert journal.next_number() == 4 and journal.running("echo") == operation


def test_the_bar() -> None:
    operation = Operation(3, "echo", "w", "me", "now", Rebalance(limit=2), "moving", 50, 200, "handing off")
    assert line(operation) == "rebalance echo: moving  [██████··················] 50/200  handing off"
    assert line(replace(operation, total=0, note="")) == "rebalance echo: moving"


@pytest.mark.parametrize(
    ("read", "good", "value", "bad"),
    [
        (options.duration, "10m", 600.0, "ten"),
        (options.duration, "0", 0.0, "-1s"),
        (options.rate, "500/s", 500, "0"),
        (options.percent, "25%", 25, "101%"),
        (options.percents, "25%,100%", [25, 100], "25%,"),
        (options.errors, "0.5%", 0.5, "-1%"),
        (options.factor, "2x", 2.0, "infx"),
        (options.limit, "1.1", 1.1, "0.9"),
    ],
)
def test_options(read, good, value, bad) -> None:  # type: ignore[no-untyped-def] # as different as the readers are
    assert read(good) == value
    with pytest.raises(argparse.ArgumentTypeError, match=r"write|not"):
        read(bad)


@pytest.mark.parametrize(
    ("ok", "code", "stays", "said"),
    [
        (True, 0, False, 0),
        (False, 1, False, 0),  # undone
        (False, 4, False, 4),  # undone but for an instance that is not ready in time
        (False, 1, True, 1),
    ],
)
def test_who_cancels_is_told_by_the_exit_code_how_that_went(ok: bool, code: int, stays: bool, said: int) -> None:
    words = "what was done stays, or not: the words decide nothing"
    assert code_of(HistoryEntry(1, "", "", "echo", "drain", "", words, ok=ok, code=code, stays=stays)) == said
