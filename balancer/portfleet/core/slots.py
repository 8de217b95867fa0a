"""Hash slots: which member of a service each of its 4,096 slots points to, and how few move when members change.

``assign`` gives every member ⌊S·w⌋ or ⌈S·w⌉ of S slots (w: its share of the weights) and moves exactly the minimum:
a slot moves only if its owner is gone or has more than its share. The remainder of the division goes to the members
that hold the most already, so that rounding moves nothing either. Pure; the same input always gives the same table.

The *home* table changes only when members or weights do. The *effective* table follows it while some members are
out. It depends on the home table, the weights and who is out, never on the order in which they went out, so that two
boxes with the same home have the same table. Every slot has a fixed order of members, its home first, and goes to the
first that serves: exactly the slots of a member that goes out move, and it gets exactly those back. The orders are made
so that what is out is dealt evenly; with one member out shares are exact, with more they are off by a few slots.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b

Table = tuple[str | None, ...]


def turn(slot: int) -> int:
    """Return the place of ``slot``, 0 up to 2^32, in the order in which slots move when they do not all move at once.

    The order steps by the golden section (Knuth, TAOCP vol. 3, 6.4, multiplicative hashing): any first part of it has
    about as many slots of every member, and always the same ones.
    """
    return slot * 0x9E3779B1 % (1 << 32)


@lru_cache(maxsize=4)
def in_turn(count: int) -> tuple[int, ...]:
    """Return the slots 0 up to ``count``, not included, ordered by `turn`."""
    return tuple(sorted(range(count), key=turn))


def assign(previous: Sequence[str | None], weights: Mapping[str, int]) -> Table:
    """Return the table nearest to ``previous`` in which every member holds its share by ``weights``.

    ``previous`` has one entry per slot (None: pointed nowhere yet). Members with weight 0 or absent get no slot; with
    no weight at all the result points nowhere.
    """
    live = {member: weight for member, weight in weights.items() if weight > 0}
    if not live:
        return (None,) * len(previous)
    now = count(previous)
    if now.total() == len(previous) and shares(len(previous), live, held=now) == now:
        return tuple(previous)  # nearly always: nothing has changed since it was assigned
    table = [owner if owner in live else None for owner in previous]
    targets = shares(len(table), live, held=Counter(owner for owner in table if owner))
    held: dict[str, list[int]] = {member: [] for member in live}
    for slot, owner in enumerate(table):
        if owner is not None:
            held[owner].append(slot)
    for member, slots in held.items():
        surplus = len(slots) - targets[member]
        if surplus > 0:
            for slot in slots[:surplus]:
                table[slot] = None
    lack = {member: targets[member] - len(held[member]) for member in live if targets[member] > len(held[member])}
    free = sorted((slot for slot, owner in enumerate(table) if owner is None), key=lambda s: (previous[s] or "", s))
    for slot, member in zip(free, _deal(lack), strict=True):
        table[slot] = member
    return tuple(table)


def effective(
    home: Sequence[str | None],
    weights: Mapping[str, int],
    serving: Collection[str],
    before: Sequence[str | None] = (),
) -> Table:
    """Return the effective table of ``home`` while of the members in ``weights`` only ``serving`` serve.

    Of a member that the home table ``before`` does not have, a slot goes next to who had it there: a new member that
    does not serve yet moves none.
    With all of the home's members serving the result is ``home`` itself; with none it points nowhere.
    """
    known = {member: weight for member, weight in weights.items() if weight > 0}
    if known.keys().isdisjoint(serving):
        return (None,) * len(home)
    table, out = list(home), {member for member in home if member is not None} - {*serving}
    if not out:
        return tuple(home)  # nearly always
    orders = _Orders(home, known)
    reached: dict[frozenset[str], list[int]] = {}
    new = {*home} - {*before} if len(before) == len(home) else set[str | None]()
    for slot, owner in enumerate(home):
        heir = before[slot] if owner in new else owner
        if owner not in out:
            continue
        if heir != owner and heir in serving and heir in known:
            table[slot] = heir
        elif heir != owner and heir in known:
            reached.setdefault(frozenset({owner, heir}), []).append(slot)
        else:
            reached.setdefault(frozenset({owner}), []).append(slot)
    # Level by level: all slots whose first members are exactly ``gone`` meet there, in whatever order they lost them.
    while reached:
        level, reached = reached, {}
        for gone in sorted(level, key=sorted):
            for slot, member in orders.after(gone, sorted(level[gone]), serving):
                if member is not None and member not in serving:
                    reached.setdefault(gone | {member}, []).append(slot)
                else:
                    table[slot] = member
    return tuple(table)


class _Orders:
    """The orders of members by slot, made as far as they are asked for.

    Slots that have lost the same members are dealt to the others so that each share is exact if only those are
    out. Too few of them to deal any go by weighted rendezvous hashing (Thaler and Ravishankar 1998; score -w / ln h).
    """

    def __init__(self, home: Sequence[str | None], weights: Mapping[str, int]) -> None:
        self._total, self._weights, self._home = len(home), weights, count(home)
        self._dealt: dict[frozenset[str], Counter[str]] = {}

    def after(
        self, gone: frozenset[str], slots: Sequence[int], serving: Collection[str]
    ) -> Iterable[tuple[int, str | None]]:
        """Yield each of ``slots`` with the member that follows in its order when ``gone`` have been passed."""
        others = {member: weight for member, weight in sorted(self._weights.items()) if member not in gone}
        if len(slots) < len(others):
            left = [(member, weight) for member, weight in others.items() if member in serving]
            return [(slot, _best(slot, left)) for slot in slots]
        held = self._home.copy()
        for before, dealt in self._dealt.items():
            if before < gone:
                held.update(dealt)
        targets = shares(self._total, others, held=held)
        turns = _deal({member: targets[member] - held[member] for member in others if targets[member] > held[member]})
        self._dealt[gone] = Counter(turns[: len(slots)])
        return zip(slots, turns, strict=False)


def _best(slot: int, members: Sequence[tuple[str, int]]) -> str | None:
    """Return the member with the highest score for ``slot``; None if there are none."""
    return max(members, key=lambda one: _score(slot, *one))[0] if members else None


def _score(slot: int, member: str, weight: int) -> float:
    drawn = int.from_bytes(blake2b(f"{slot} {member}".encode(), digest_size=8).digest(), "big")
    return -weight / math.log((drawn + 1) / ((1 << 64) + 2))


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


def _deal(lack: Mapping[str, int]) -> list[str]:
    """Return each member ``lack[member]`` times, as evenly interleaved as the numbers allow."""
    turns = [((2 * turn + 1) / (2 * count), order, member) for order, (member, count) in enumerate(lack.items())
             for turn in range(count)]  # fmt: skip
    return [member for *_, member in sorted(turns)]
