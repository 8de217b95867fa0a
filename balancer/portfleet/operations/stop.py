"""End instances that have been emptied, in the order that resets no connection.

Their slots are gone, their accept queues and SYN_RECV were found empty (``empty``). A daemon looks at both once more
after SIGTERM before it closes its port (docs/control.md); what it accepts meanwhile is handed over too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from portfleet.apply.endings import EMPTIED
from portfleet.core.desired import DesiredInstance
from portfleet.operations.empty import Order, spread
from portfleet.operations.task import OperationFailed, Task

_LOOK = 0.1


async def stop(task: Task[Any], names: Collection[str], receivers: Sequence[DesiredInstance] = ()) -> None:
    """Stop instances and have supervisord forget them; ``receivers`` get what still comes in. Not cancellable.

    By name: what the journal wants stopped already is no instance with a process any more. Raise OperationFailed for
    one that serves and has slots: they stay with it if no other instance serves.
    """
    there = await task.world.daemons.pids()
    if held := [name for name in task.holding(names) if task.serves(name) and name in there]:
        raise OperationFailed(f"{', '.join(held)} goes on running: no other instance serves its clients now")
    handing = task.instances(names) if receivers else []
    clock = task.world.clock
    looked = clock.monotonic()
    async for _ in task.through(task.programs().ending(names, EMPTIED)):
        if handing and clock.monotonic() - looked >= _LOOK:
            counts = await task.connections(handing)
            await spread(task, [Order(want, receivers, counts[want.name]) for want in handing])
            looked = clock.monotonic()
