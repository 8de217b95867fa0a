"""rebalance: moves established connections from the fullest instances to the emptiest until max/mean ≤ the limit."""

from __future__ import annotations

from typing import Any

from portfleet.core.balance import in_words, next_move
from portfleet.core.printable import quantity
from portfleet.core.work.rebalance import Rebalance
from portfleet.operations.empty import Order, spread
from portfleet.operations.task import OperationFailed, Task


async def run(task: Task[Rebalance]) -> str:
    """Move connections until the limit is kept."""
    return await even_out(task, limit=task.work.limit)


async def undo(_: Task[Rebalance]) -> str:
    """Nothing is to be undone: each connection is where it was handed."""
    return "connections stay where they are"


async def even_out(task: Task[Any], *, limit: float) -> str:
    """Move connections until no instance has more than ``limit`` × the mean; return before and after in words."""
    instances = {i.name: i for i in task.want().instances if i.takes and i.program is not None and task.serves(i.name)}
    before = counts = await task.connections(instances.values())
    total = 0
    while (step := next_move(counts, limit=limit)) is not None:
        sender, receiver, count = step
        moved, why, busy = await spread(task, [Order(instances[sender], [instances[receiver]], count)])
        total += moved
        task.progress(total, total + count - moved, f"{sender} → {receiver}")
        await task.pause(1.0 if busy else 0)
        if not moved and not busy:
            raise OperationFailed(f"{in_words(before, counts)}; {why or 'requests in flight have not ended'}")
        counts = await task.connections(instances.values())
    return f"{in_words(before, counts)}; {quantity(total, 'connection', 'was')} handed off"
