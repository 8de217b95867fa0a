"""Transactions in parts, for where the kernel takes no message as long as the whole.

One transaction is one message on a netlink socket, and a message may not be longer than the socket's send buffer.
libnftables widens that as far as it needs (SO_SNDBUFFORCE), a right of the first user namespace alone; elsewhere the
default of 212,992 bytes remains, enough to re-point some 4,500 slots. What is larger is done part by part: each part is
done wholly or not at all and a slot always points at one instance, but clients may come between two parts.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from portfleet.core.changes import PointSlots, Transaction


def halves(transaction: Transaction) -> tuple[Transaction, Transaction] | None:
    """Return two transactions that do together, in this order, what ``transaction`` does; None if it has no parts."""
    if len(transaction) > 1:
        middle = len(transaction) // 2
        return transaction[:middle], transaction[middle:]
    (change,) = transaction
    if not isinstance(change, PointSlots) or len(change.moves) < 2:
        return None
    moves, middle = iter(change.moves.items()), len(change.moves) // 2
    return (replace(change, moves=dict(islice(moves, middle))),), (replace(change, moves=dict(moves)),)
