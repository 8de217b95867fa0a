"""Slots: shares are exact, moves are the minimum, and everything returns home."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portfleet.core.slots import Table, assign, count, effective, in_turn, moves, shares

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
    """Every member holds ⌊S·w⌋ or ⌈S·w⌉ slots, and no other holds any."""
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


@settings(max_examples=100)
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


@settings(max_examples=80)
@given(st.integers(2, 8), st.sampled_from([64, 256, 1024]), st.data())
def test_an_ejection_moves_exactly_the_slots_of_who_is_out_and_a_return_exactly_those_back(
    members: int, total: int, data: st.DataObject
) -> None:
    """From any out-set to any other with one member more: the fewest moves that there can be, both ways."""
    weights = {member: data.draw(st.integers(1, 3)) for member in MEMBERS[:members]}
    home = assign((None,) * total, weights)
    order = data.draw(st.permutations(sorted(weights)))

    table = home
    for gone in range(1, members):
        after = effective(home, weights, order[gone:])
        assert {slot for slot, owner in enumerate(table) if owner == order[gone - 1]} == moves(table, after).keys()
        table = after
    assert set(table) == {order[-1]}
    assert set(effective(home, weights, [])) == {None}


@settings(max_examples=100)
@given(st.sets(st.sampled_from(MEMBERS), max_size=7), st.randoms(use_true_random=False))
def test_the_table_depends_on_who_is_out_alone(out: set[str], chance: random.Random) -> None:
    """Neither the order of the members nor that of the weights counts, whatever home the history has left."""
    weights = {member: chance.choice([1, 1, 2]) for member in MEMBERS}
    home = assign(assign((None,) * 256, weights | {"1": 3}), weights)
    serving = [member for member in MEMBERS if member not in out]
    shuffled = chance.sample(sorted(weights.items()), len(weights))

    assert effective(home, weights, serving) == effective(
        home, dict(shuffled), set(chance.sample(serving, len(serving)))
    )


@pytest.mark.parametrize("new", [1, 2])
def test_a_new_member_that_does_not_serve_moves_nothing(new: int) -> None:
    """Its slots stay with whoever had them, until it serves, and go there again when it is out."""
    weights = dict.fromkeys("1234", 1)
    before, more = assign((None,) * 4096, weights), weights | dict.fromkeys("56"[:new], 1)
    home = assign(before, more)

    assert effective(home, more, "1234", before) == before
    assert effective(home, more, [*more], before) == home


@settings(max_examples=100)
@given(st.sets(st.sampled_from(MEMBERS), min_size=1), st.sets(st.sampled_from(MEMBERS)), st.integers(1, 64))
def test_no_slot_goes_to_a_member_that_does_not_serve_or_has_no_weight(
    members: set[str], serving: set[str], slots: int
) -> None:
    """Also not to one that has no slot at home: that leaves, or is one of more members than slots."""
    home = assign((None,) * slots, dict.fromkeys(sorted(members), 1))
    owners = set(effective(home, dict.fromkeys(MEMBERS, 1), serving))
    assert owners <= serving or (not serving and owners == {None})


@pytest.mark.parametrize("members", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("weighed", [False, True])
def test_with_one_member_out_every_share_is_exact(members: int, weighed: bool) -> None:
    weights = {member: 1 + weighed * (number % 3) for number, member in enumerate(MEMBERS[:members])}
    home = assign((None,) * 4096, weights)

    for out in weights:
        serving = {member: weight for member, weight in weights.items() if member != out}
        check_shares(effective(home, weights, serving), serving)


@pytest.mark.parametrize(
    ("members", "out", "most"), [(4, 2, 1), (6, 3, 1), (8, 3, 1), (10, 3, 1), (16, 3, 4), (64, 3, 8)]
)
def test_with_several_out_no_share_is_off_by_more_than_a_few_slots(members: int, out: int, most: int) -> None:
    weights = {str(number): 1 for number in range(members)}
    home, chance = assign((None,) * 4096, weights), random.Random(20261127)
    for _ in range(10):
        serving = sorted(weights.keys() - set(chance.sample(sorted(weights), out)))
        held = count(effective(home, weights, serving))
        assert all(abs(held[member] - 4096 / len(serving)) <= most for member in serving), held


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


@pytest.mark.parametrize("total", [256, 4096, 65536])
@pytest.mark.parametrize("members", [2, 3, 5, 8])
def test_each_part_of_the_slots_by_their_turns_has_some_of_every_member(total: int, members: int) -> None:
    some, fair = in_turn(total)[: total // 8], total / 8 / members
    blocks, stripes = Counter(slot * members // total for slot in some), Counter(slot % members for slot in some)
    for found in (blocks, stripes):
        assert len(found) == members and max(abs(count - fair) for count in found.values()) < max(4, fair / 4), found
    assert sorted(in_turn(total)) == [*range(total)]


def test_without_anybody_slots_point_nowhere() -> None:
    assert assign(("1", "2"), {}) == assign(("1", "2"), {"1": 0}) == (None, None)
