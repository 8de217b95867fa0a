"""What becomes of connections that cannot be handed off, said before anything does, by --dry-run too."""

from __future__ import annotations

import math
from collections.abc import Iterable

from portfleet.apply.context import Context


def tell(context: Context, names: Iterable[str], why: str, *, rate: int | None, waits: str) -> None:
    """Say how many connections ``names`` have and what becomes of them; nothing if they have none.

    ``why`` they cannot be handed off; ``rate``: they are closed, so many a second; ``waits``: what they do without one.
    """
    observed = context.observe(context.desired(context.applied_fleet), probe=False)
    there = sum(observed.seen(name).connections or 0 for name in names)
    if not there:
        return
    how = f"they are closed, {rate:,} a second, which takes {math.ceil(there / rate):,} s" if rate else waits
    context.say(f"{there:,} connections cannot be handed off: {why}; {how}")
