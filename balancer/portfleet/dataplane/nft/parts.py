"""Transactions in parts, for where the kernel takes no message as long as the whole.

One transaction is one message on a netlink socket, and a message may not be longer than the socket's send buffer.
libnftables widens that as far as it needs (SO_SNDBUFFORCE), a right of the first user namespace alone; elsewhere the
default of 212,992 bytes remains, enough to re-point some 4,500 slots. What is larger is done part by part: each part is
done wholly or not at all and a slot always points at one instance, but clients may come between two parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from portfleet.core.changes import Route, Transaction
from portfleet.core.slots import Table


def halves(transaction: Transaction, read_slots: Callable[[str], Table]) -> tuple[Transaction, Transaction] | None:
    """Return two transactions that do together, in this order, what ``transaction`` does; None if it has no parts.

    ``read_slots`` returns the slots that a service has now.
    """
    if len(transaction) > 1:
        middle = len(transaction) // 2
        return transaction[:middle], transaction[middle:]
    (change,) = transaction
    if not isinstance(change, Route):
        return None
    now = read_slots(change.rule.name)
    size = max(len(now), len(change.table))
    before, after = (list(table) + [None] * (size - len(table)) for table in (now, change.table))
    moving = [slot for slot in range(size) if before[slot] != after[slot]]
    if len(moving) < 2:
        return None
    for slot in moving[: len(moving) // 2]:
        before[slot] = after[slot]
    return (replace(change, table=tuple(before)),), (change,)
