"""Damaged files from a seed: no verb meets a traceback or goes on for ever (`script/soak fuzz` is the long form)."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from support import fuzz_state
from support.forms import forms

SEEDS = range(4)


@pytest.mark.parametrize("seed", forms(SEEDS))
def test_a_journal_with_wrong_values_is_damaged_or_one_to_go_by(seed: int) -> None:
    chance, whole = random.Random(f"journal {seed}"), fuzz_state.sample()
    assert fuzz_state.try_journal(whole)
    taken = 0
    for number in range(100):
        data = fuzz_state.damaged(whole, chance)
        began = time.monotonic()
        try:
            taken += fuzz_state.try_journal(data)
        except Exception as error:
            error.add_note(f"seed {seed}, number {number}")
            raise
        assert time.monotonic() - began < 5, (seed, number)
    assert 0 < taken < 100


@pytest.mark.parametrize(
    ("field", "value"),
    [("leaving", 10**30), ("canary", 101), ("seed", -1), ("instances", 0), ("pins", {"x": "1"}), ("live", "red"),
     ("colours", {"red": {}}), ("marks", {"echo-blue-1": 10**30}), ("marks", {"a": 1, "b": 1}), ("leaving", "3"),
     ("moved", {"1": {"to": "2", "percent": 1000}}), ("colours", {"blue": {"release": "v1\n[program:x]"}}),
     ("colours", {"blue": {"since": "2026-02-31T12:00:00Z"}}), ("colours", {"blue": {"keep_until": "soon"}})],
)  # fmt: skip
def test_a_value_out_of_its_range_is_a_damaged_journal(field: str, value: object) -> None:
    data = fuzz_state.sample()
    data["services"]["echo"][field] = value
    assert not fuzz_state.try_journal(data)


@pytest.mark.parametrize("seed", forms(SEEDS))
def test_a_damaged_file_of_run_says_nothing_or_what_fits(seed: int, tmp_path: Path) -> None:
    chance = random.Random(f"states {seed}")
    for _ in range(50):
        fuzz_state.try_states(tmp_path, chance)


@pytest.mark.parametrize("seed", forms(SEEDS))
def test_a_damaged_config_has_problems_and_nothing_worse(seed: int) -> None:
    chance = random.Random(f"config {seed}")
    assert sum(fuzz_state.try_config(fuzz_state.damaged_config(chance)) for _ in range(100)) < 100
