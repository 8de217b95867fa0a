"""Who waits for a processor: steps of what yields are not urgent, the loop between them is, nor are helper threads."""

from __future__ import annotations

import asyncio
import os

import pytest

from portfleet.watch.priority import ORDINARY, helpers, yielding


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be urgent")
def test_helper_threads_and_work_of_an_urgent_loop_are_not_urgent() -> None:
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    async def look() -> int:
        return nice()

    async def three() -> tuple[int, int, int]:
        os.setpriority(os.PRIO_PROCESS, 0, -1)
        with helpers("test", 1) as pool:
            helper = await asyncio.get_running_loop().run_in_executor(pool, nice)
        return helper, await yielding(look()), nice()

    def in_a_thread() -> tuple[int, int, int]:
        return asyncio.run(three())

    with helpers("loop", 1) as pool:
        assert pool.submit(in_a_thread).result() == (0, 0, -1)
