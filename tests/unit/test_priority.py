"""Who waits for a processor: the loop is urgent, but not what it starts, nor the steps of what yields."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from portfleet.watch.priority import ORDINARY, URGENT, urgent, yielding
from support.slices import slice_of

_SECCOMP = str(Path(__file__).parents[1] / "support/seccomp.py")
_NICE = f"import os; os.setpriority(os.PRIO_PROCESS, 0, {URGENT})"
_URGENT = "import os; from portfleet.watch.priority import urgent; print(urgent(), os.getpriority(os.PRIO_PROCESS, 0))"


def test_work_goes_on_at_the_ordinary_priority_and_the_loop_at_its_own() -> None:
    async def steps() -> str:
        for _ in range(2):
            noted.append("step")
            await asyncio.sleep(0)
        return "done"

    noted: list[object] = []
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert asyncio.run(yielding(steps(), set_nice=noted.append)) == "done"
    ordinary = max(own, ORDINARY)
    assert noted == [ordinary, "step", own, ordinary, "step", own, ordinary, own]


def test_what_work_meets_and_raises_passes_through() -> None:
    async def cancelled() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "undone"
        return "slept"

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("its own")

    async def cancel() -> str:
        task = asyncio.create_task(yielding(cancelled()))
        await asyncio.sleep(0)
        task.cancel()
        return await task

    assert asyncio.run(cancel()) == "undone"
    with pytest.raises(ValueError, match="its own"):
        asyncio.run(yielding(fails()))


@pytest.fixture
def nice() -> int:
    """Return the nice value of who is urgent: the usual one without the right to another."""
    refused = subprocess.run([sys.executable, "-c", _NICE], stderr=subprocess.DEVNULL, check=False).returncode
    return ORDINARY if refused else URGENT


def test_what_an_urgent_loop_starts_is_not_urgent_nor_is_the_work_of_an_operation(nice: int) -> None:
    usual = slice_of(0)

    def now() -> tuple[int, float]:
        return os.getpriority(os.PRIO_PROCESS, 0), slice_of(0)

    async def work() -> int:
        return now()[0]

    async def loop() -> None:
        assert urgent() == (nice == URGENT)
        assert now() == (nice, min(usual, 1e-4))
        with ThreadPoolExecutor(1) as pool:
            assert await asyncio.get_running_loop().run_in_executor(pool, now) == (ORDINARY, usual)
        assert subprocess.run(["nice"], capture_output=True, text=True, check=True).stdout == f"{ORDINARY}\n"
        assert await yielding(work()) == ORDINARY and now()[0] == nice

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, loop()).result()


@pytest.mark.parametrize("without", ["realtime", "scheduling"])
def test_a_sandbox_that_refuses_realtime_policies_refuses_nothing_and_one_that_refuses_all_is_told(
    without: str, nice: int
) -> None:
    then = nice if without == "realtime" else ORDINARY
    words = [sys.executable, _SECCOMP, without, sys.executable, "-c", _URGENT]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert found == f"{then == URGENT} {then}\n"
