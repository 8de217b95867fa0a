"""What becomes of established connections, said with their number before anything does, by --dry-run too."""

from __future__ import annotations

import math
from collections.abc import Iterable

from portfleet.apply.context import Context
from portfleet.core.operations import Policy


def tell(context: Context, names: Iterable[str], why: str, *, rate: int | None, waits: str) -> None:
    """Print how many connections ``names`` have and what becomes of them; nothing if they have none.

    ``why`` they cannot be handed off; ``rate``: they are closed, so many a second; ``waits``: what they do without one.
    """
    if there := established(context, names):
        how = _closed(there, rate) if rate else waits
        context.say(f"{there:,} connections cannot be handed off: {why}; {how}")


def tell_handed(context: Context, names: Iterable[str], to: str) -> None:
    """Print how many connections ``names`` have, and that they are handed off to ``to``."""
    context.say(f"{established(context, names):,} connections are handed off to {to}; none is closed")


def tell_drained(context: Context, names: Iterable[str], policy: Policy) -> None:
    """Print how many connections ``names`` have, and how a drain by ``policy`` ends them."""
    there = established(context, names)
    context.say(f"{there:,} connections: {ends(there, policy)}" if there else "no connections there")


def ends(there: int, policy: Policy) -> str:
    """Return how ``there`` connections end by ``policy``."""
    if policy.rate:
        return _closed(there, policy.rate)
    if policy.then == "wait" or policy.deadline is None:
        return "they stay until they end; none is closed"
    end = "closed at once" if policy.then == "kill" else "closed"
    return f"they may finish for {policy.deadline:g} s, then those left are {end}"


def _closed(there: int, rate: int) -> str:
    return f"they are closed, {rate:,} a second, which takes {math.ceil(there / rate):,} s"


def established(context: Context, names: Iterable[str]) -> int:
    """Return how many connections the instances ``names`` have now."""
    observed = context.observe(context.desired(context.applied_fleet), probe=False)
    return sum(observed.seen(name).connections or 0 for name in names)
