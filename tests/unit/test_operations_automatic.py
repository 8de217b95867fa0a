"""Rollbacks that no operator asked for: one after a cutover, and no second if that failed."""

from __future__ import annotations

import asyncio

import pytest

from portfleet.operations.automatic import begin_rollbacks
from support.fake_operated import Box

GREEN = [f"echo-green-{number}" for number in (1, 2, 3)]


def rolls_back(box: Box) -> bool:
    """Return whether a rollback is begun while all of green end soon after each start."""

    async def look() -> None:
        world = box.world()
        world.unsteady = lambda: GREEN
        begin_rollbacks(world)

    asyncio.run(look())
    return bool(box.journal.operations)


@pytest.fixture
def cut_over(box: Box) -> Box:
    """Return a box whose blue colour is kept."""
    box.operate("cutover", "echo", "--release", "v2")
    return box


def test_it_goes_back_to_the_old_release(cut_over: Box) -> None:
    assert rolls_back(cut_over)
    assert cut_over.finish().ok and cut_over.slots() == "blue-1 86, blue-2 85, blue-3 85"


def test_if_it_fails_that_is_the_end(cut_over: Box) -> None:
    assert rolls_back(cut_over)
    cut_over.command("cancel", "echo")
    assert not cut_over.finish().ok and cut_over.slots() == "green-1 86, green-2 85, green-3 85"
    assert not rolls_back(cut_over)


def test_after_an_operators_rollback_forward_it_is_not_undone(cut_over: Box) -> None:
    cut_over.operate("rollback", "echo")
    cut_over.operate("rollback", "echo", "--forward")
    assert rolls_back(cut_over)  # to go forward is a cutover


def test_nothing_is_begun_without_a_cutover(box: Box) -> None:
    assert not rolls_back(box)
