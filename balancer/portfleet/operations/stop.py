"""Ends instances that have been emptied, in the order that resets nobody.

Their slots are gone, their accept queues and SYN_RECV were found empty (``moving``). A daemon looks at both once more
after SIGTERM before it closes its port (docs/control.md); what it accepts meanwhile is handed over too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from portfleet.core.desired import DesiredInstance
from portfleet.operations.empty import spread
from portfleet.operations.task import Task

_LOOK = 0.1


async def stop(task: Task, names: Collection[str], receivers: Sequence[DesiredInstance] = ()) -> None:
    """Stop instances and have supervisord forget them; ``receivers`` get what still comes in. Not cancellable.

    By name: what the journal wants stopped already is no instance with a process any more.
    """
    if not names:
        return
    handing = task.instances(names) if receivers else []
    ending = asyncio.create_task(asyncio.to_thread(task.executor().end, list(names)))
    while not ending.done():
        await asyncio.wait({ending}, timeout=_LOOK)
        counts = await task.connections(handing) if handing else {}
        for want in handing:
            if counts[want.name] and not ending.done():
                await spread(task, want, receivers, counts[want.name])
    ending.result()
