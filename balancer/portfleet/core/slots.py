"""Hash slots: which member of a service each of its 4,096 slots points to, and how few move when members change.

``assign`` gives every member ⌊S·w⌋ or ⌈S·w⌉ of S slots (w: its share of the weights) and moves exactly the minimum:
a slot moves only if its owner is gone or has more than its share. The remainder of the division goes to the members
that hold the most already, so that rounding moves nothing either. Pure; the same input always gives the same table.

The *home* table changes only when members or weights do. The *effective* table follows it while some members are
out: an out member's slots are dealt evenly to the others, origin by origin, and a member that comes back gets
exactly its home slots back (the caches there are warm), so with nobody out the effective table is the home table.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

Table = tuple[str | None, ...]


def assign(previous: Sequence[str | None], weights: Mapping[str, int], home: Sequence[str | None] = ()) -> Table:
    """Return the table nearest to ``previous`` in which every member holds its share by ``weights``.

    ``previous`` has one entry per slot (None: pointed nowhere yet). Members with weight 0 or absent get no slot; with
    no weight at all the result points nowhere. Where ``home`` is given, a slot whose home member has a weight goes
    home first.
    """
    live = {member: weight for member, weight in weights.items() if weight > 0}
    if not live:
        return (None,) * len(previous)
    now = count(previous)
    if not home and now.total() == len(previous) and shares(len(previous), live, held=now) == now:
        return tuple(previous)  # nearly always: nothing has changed since it was assigned
    origin = home or previous
    table = [
        at_home if home and (at_home := home[slot]) in live else owner if owner in live else None
        for slot, owner in enumerate(previous)
    ]
    targets = shares(len(table), live, held=Counter(owner for owner in table if owner))
    held: dict[str, list[int]] = {member: [] for member in live}
    for slot, owner in enumerate(table):
        if owner is not None:
            held[owner].append(slot)
    for member, slots in held.items():
        surplus = len(slots) - targets[member]
        if surplus > 0:
            for slot in _by_turns(slots, origin, member)[:surplus]:
                table[slot] = None
    lack = {member: targets[member] - len(held[member]) for member in live if targets[member] > len(held[member])}
    free = sorted((slot for slot, owner in enumerate(table) if owner is None), key=lambda s: (origin[s] or "", s))
    for slot, member in zip(free, _deal(lack), strict=True):
        table[slot] = member
    return tuple(table)


def effective(current: Sequence[str | None], home: Sequence[str | None], weights: Mapping[str, int]) -> Table:
    """Return the effective table for the members in ``weights`` (out members left out or 0), starting at ``current``.

    ``current`` is what the kernel has now; empty for a first table. With all of the home's members in it the result
    is ``home`` itself.
    """
    if all(member is None or weights.get(member, 0) > 0 for member in set(home)):
        return tuple(home)
    return assign(current or home, weights, home)


def shares(total: int, weights: Mapping[str, int], *, held: Mapping[str, int]) -> dict[str, int]:
    """Divide ``total`` slots by ``weights`` (all > 0); the remainder goes where the most is held above the floor."""
    whole = sum(weights.values())
    result = {member: total * weight // whole for member, weight in weights.items()}
    fractional = [member for member, weight in weights.items() if total * weight % whole]
    fractional.sort(key=lambda member: result[member] - held.get(member, 0))  # stable: ties keep the members' order
    for member in fractional[: total - sum(result.values())]:
        result[member] += 1
    return result


def moves(before: Sequence[str | None], after: Sequence[str | None]) -> dict[int, tuple[str | None, str | None]]:
    """Return {slot: (old owner, new owner)} for every slot that differs."""
    return {slot: (old, new) for slot, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}


def count(table: Iterable[str | None]) -> Counter[str]:
    """Return how many slots each owner holds."""
    found = Counter(table)  # None too: to leave it out before takes twice as long
    return Counter({owner: number for owner, number in found.items() if owner is not None})


def _by_turns(slots: Collection[int], origin: Sequence[str | None], owner: str) -> list[int]:
    """Order ``slots`` for giving up: foreign origins first, always one from the origin that has the most left."""
    groups: dict[str, list[int]] = defaultdict(list)
    own = []
    for slot in sorted(slots):
        if origin[slot] == owner:
            own.append(slot)
        else:
            groups[origin[slot] or ""].append(slot)
    ranked = [(-rank, name, slot) for name, group in groups.items() for rank, slot in enumerate(reversed(group))]
    return [slot for *_, slot in sorted(ranked)] + own


def _deal(lack: Mapping[str, int]) -> list[str]:
    """Return each member ``lack[member]`` times, as evenly interleaved as the numbers allow."""
    turns = [((2 * turn + 1) / (2 * count), order, member) for order, (member, count) in enumerate(lack.items())
             for turn in range(count)]  # fmt: skip
    return [member for *_, member in sorted(turns)]
