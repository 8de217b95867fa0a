"""Damaged answers of instances from a seed: each is a checked value or words (`script/soak fuzz` is the long form)."""

from __future__ import annotations

import random

import pytest

from support.fuzz_answers import try_answer


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_answer_is_a_value_or_words(seed: int) -> None:
    chance = random.Random(f"answers {seed}")
    taken = sum(try_answer(chance) for _ in range(500))
    assert 0 < taken < 500
