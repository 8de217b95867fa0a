"""What becomes of established connections, said with their number before anything does, by --dry-run too."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Collection, Iterable

from portfleet.apply.context import Context
from portfleet.core.observed import Observed
from portfleet.core.operations import Policy
from portfleet.core.printable import quantity

#: The most looks at how many connections there are, and seconds between the first two; each time it is so much longer.
_LOOKS, _MOMENT = 5, 0.05


def tell(context: Context, names: Iterable[str], why: str, *, rate: int | None, waits: str) -> None:
    """Print how many connections ``names`` have and what becomes of them; nothing if they have none.

    ``why`` they cannot be handed off; ``rate``: they are closed, so many a second; ``waits``: what they do without one.
    """
    if there := established(context, names):
        how = _closed(there, rate) if rate else waits
        context.say(f"{quantity(there, 'connection')} cannot be handed off: {why}; {how}")


def tell_handed(context: Context, names: Iterable[str], to: str) -> None:
    """Print how many connections ``names`` have, and that they are handed off to ``to``."""
    there = quantity(established(context, names), "connection", "is")
    context.say(f"{there} handed off to {to}; none is closed")


def tell_drained(context: Context, names: Iterable[str], policy: Policy) -> None:
    """Print how many connections ``names`` have, and how a drain by ``policy`` ends them."""
    there = established(context, names)
    context.say(f"{quantity(there, 'connection')}: {ends(there, policy)}" if there else "no connections there")


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
    desired, wanted = context.desired(context.applied_fleet), list(names)
    return counted(lambda: context.observe(desired, probe=False, only=wanted), lambda _: wanted)[1]


def counted(look: Callable[[], Observed], names: Callable[[Observed], Collection[str]]) -> tuple[Observed, int]:
    """Return what ``look`` gives, and how many connections those that ``names`` gives of it have.

    A probe under way is no client, and the least of some looks counts: so few that all may be probes are looked at
    five times within half a second, more are, if they were counted by sockets, until two looks agree.
    """
    least, before = sys.maxsize, -1
    for turn in range(_LOOKS):
        time.sleep(_MOMENT * turn)
        observed = look()
        there = {name: observed.seen(name) for name in names(observed)}
        now = sum(seen.connections or 0 for seen in there.values())
        least = min(least, now)
        told = all(seen.status is not None for seen in there.values() if seen.connections)
        if not now or (now > len(there) and (told or now == before)):
            break
        before = now
    return observed, least
