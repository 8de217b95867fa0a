"""Ends instances that have been emptied, in the order that resets nobody.

Their slots are gone, their accept queues and SYN_RECV were found empty (``moving``). Our daemon looks at both once
more after SIGTERM before it closes its port; what it accepts meanwhile is handed over too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from portfleet.desired import InstanceWant
from portfleet.operate.moving import spread
from portfleet.operate.task import Task

_LOOK = 0.1


async def stop(task: Task, instances: Sequence[InstanceWant], receivers: Sequence[InstanceWant] = ()) -> None:
    """Stop instances and have supervisord forget them; ``receivers`` get what still comes in. Not cancellable."""
    if not instances:
        return
    work = asyncio.to_thread(task.executor().end, [want.name for want in instances])
    ending = asyncio.create_task(work)
    handing = [want for want in instances if want.ours] if receivers else []
    while not ending.done():
        await asyncio.wait({ending}, timeout=_LOOK)
        counts = await task.connections(handing) if handing else {}
        for want in handing:
            if counts[want.name] and not ending.done():
                await spread(task, want, receivers, counts[want.name])
    ending.result()
