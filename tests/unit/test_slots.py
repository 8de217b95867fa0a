"""Slots: shares are exact, moves are the minimum, and everything returns home."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfleet.core.slots import Table, assign, count, effective, moves, shares

MEMBERS = [str(number) for number in range(1, 9)]
WEIGHTS = st.dictionaries(st.sampled_from(MEMBERS), st.integers(0, 5))


def fewest(previous: Table, weights: Mapping[str, int]) -> int:
    """Return the fewest moves by which any table of whole shares can be reached from ``previous``.

    By brute force over who gets the remainder: a slot must move where its owner is gone or pointless, and where an
    owner holds more than its share. Nothing of the code under test is used.
    """
    live = {member: weight for member, weight in weights.items() if weight}
    total, whole = len(previous), sum(live.values())
    if not live:
        return sum(owner is not None for owner in previous)
    held = Counter(owner for owner in previous if owner in live)
    floors = {member: total * weight // whole for member, weight in live.items()}
    can_take_more = [member for member, weight in live.items() if total * weight % whole]
    extra = total - sum(floors.values())
    homeless = total - sum(held.values())
    surplus = sum(max(0, held[member] - floors[member]) for member in live)
    # A remainder slot given to a member above its floor saves exactly one move; to others none.
    saved = min(extra, sum(held[member] > floors[member] for member in can_take_more))
    return homeless + surplus - saved


def check_shares(table: Table, weights: Mapping[str, int]) -> None:
    """Every member holds ⌊S·w⌋ or ⌈S·w⌉ slots, and nobody else holds any."""
    live = {member: weight for member, weight in weights.items() if weight}
    if not live:
        assert set(table) <= {None}
        return
    held, whole = count(table), sum(live.values())
    assert sum(held.values()) == len(table) and set(held) <= set(live)
    for member, weight in live.items():
        assert len(table) * weight // whole <= held[member] <= -(-len(table) * weight // whole), member
    if len(set(live.values())) == 1:
        assert max(held.values()) - min(held[member] for member in live) <= 1


@settings(max_examples=300)
@given(st.lists(st.sampled_from([None, *MEMBERS]), min_size=1, max_size=64), WEIGHTS)
def test_any_table_becomes_one_of_exact_shares_by_the_fewest_moves(
    previous: list[str | None], weights: dict[str, int]
) -> None:
    table = assign(previous, weights)

    check_shares(table, weights)
    assert len(moves(previous, table)) == fewest(tuple(previous), weights)
    assert assign(table, weights) == table, "the same again moves nothing"


@settings(max_examples=100)
@given(st.integers(1, 70), st.integers(1, 9), st.data())
def test_the_remainder_saves_all_moves_it_can(total: int, members: int, data: st.DataObject) -> None:
    """`fewest` itself, against every way to hand out the remainder, where there are few."""
    weights = {str(member): data.draw(st.integers(1, 3)) for member in range(members)}
    previous = tuple(data.draw(st.lists(st.sampled_from([None, *weights]), min_size=total, max_size=total)))
    whole, held = sum(weights.values()), Counter(owner for owner in previous if owner)
    floors = {member: total * weight // whole for member, weight in weights.items()}
    fractional = [member for member in weights if total * weights[member] % whole]
    extra = total - sum(floors.values())

    def cost(gets_more: set[str]) -> int:
        # What stays is min(held, share) of each; every other slot moves.
        return total - sum(min(held[m], floors[m] + (m in gets_more)) for m in weights)

    gains = sorted(fractional, key=lambda member: cost({member}))
    assert cost(set(gains[:extra])) == fewest(previous, weights) == len(moves(previous, assign(previous, weights)))


@pytest.mark.parametrize("total", [256, 4096])
def test_a_thousand_random_changes_of_members_move_the_minimum(total: int) -> None:
    chance = random.Random(20260131 + total)
    for _ in range(25 if total == 4096 else 1000):
        weights = {member: chance.choice([1, 1, 1, 2, 3]) for member in chance.sample(MEMBERS, chance.randint(1, 8))}
        table = assign((None,) * total, weights)
        check_shares(table, weights)
        for _ in range(8):
            match chance.choice(["add", "remove", "weigh"]):
                case "add":
                    weights = weights | {chance.choice(MEMBERS): 1}
                case "remove" if len(weights) > 1:
                    weights = {m: w for m, w in weights.items() if m != chance.choice(list(weights))}
                case _:
                    weights = weights | {chance.choice(list(weights)): chance.randint(0, 4)}
            if not any(weights.values()):
                weights = weights | {"1": 1}
            after = assign(table, weights)
            check_shares(after, weights)
            assert len(moves(table, after)) == fewest(table, weights)
            table = after


def test_a_thousand_random_sequences_of_ejections_return_home() -> None:
    """Whatever comes and goes in whatever order: shares are exact, and with nobody out the table is home again."""
    chance = random.Random(20260201)
    for _ in range(1000):
        weights = {member: chance.choice([1, 1, 2]) for member in MEMBERS[: chance.randint(2, 8)]}
        home = assign((None,) * 256, weights)
        current, out = home, set[str]()
        for _ in range(chance.randint(1, 10)):
            if out and chance.random() < 0.5:
                out.discard(back := chance.choice(sorted(out)))
            elif len(out) < len(weights) - 1:
                out.add(chance.choice(sorted(weights.keys() - out)))
                back = None
            else:
                continue
            serving = {member: weight for member, weight in weights.items() if member not in out}
            after = effective(current, home, serving)
            check_shares(after, serving)
            for slot in moves(current, after):
                if back is None:
                    continue
                # Who comes back takes its home slots; what else moves evens out the shares of those still away.
                assert after[slot] == home[slot] or home[slot] in out
            if back is not None:
                assert all(after[slot] == back for slot in range(256) if home[slot] == back)
            current = after
        assert effective(current, home, weights) == home


@pytest.mark.parametrize("members", [2, 3, 4, 7, 8])
def test_an_ejection_moves_only_the_share_of_who_is_out_and_deals_it_evenly(members: int) -> None:
    weights = dict.fromkeys(MEMBERS[:members], 1)
    home = assign((None,) * 4096, weights)

    for out in weights:
        serving = {member: 1 for member in weights if member != out}
        table = effective(home, home, serving)

        moved = moves(home, table)
        assert {old for old, _ in moved.values()} == {out} and len(moved) == count(home)[out]
        got = Counter(new for _, new in moved.values())
        assert max(got.values()) - min(got.values()) <= 1 + (members > 2)
        assert effective(table, home, weights) == home


def test_the_same_input_gives_the_same_table() -> None:
    weights = {"1": 1, "2": 3, "3": 2}
    assert assign((None,) * 4096, weights) == assign((None,) * 4096, dict(weights))


def test_a_new_member_takes_evenly_from_all() -> None:
    four = assign((None,) * 4096, dict.fromkeys("1234", 1))

    taken = moves(four, assign(four, dict.fromkeys("12345", 1)))

    assert {new for _, new in taken.values()} == {"5"}
    assert sorted(Counter(old for old, _ in taken.values()).values()) == [204, 205, 205, 205]


@given(st.integers(1, 5000), st.dictionaries(st.text(min_size=1), st.integers(1, 100), min_size=1))
def test_shares_sum_to_the_whole(total: int, weights: dict[str, int]) -> None:
    assert sum(shares(total, weights, held={}).values()) == total


def test_without_anybody_slots_point_nowhere() -> None:
    assert assign(("1", "2"), {}) == assign(("1", "2"), {"1": 0}) == (None, None)
