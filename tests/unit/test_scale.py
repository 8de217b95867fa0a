"""The arithmetic of many boxes: its page and its result file are up to date, and its figures agree."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from benchmarks.scale import boxes
from benchmarks.scale.model import BOXES, CONNECTIONS, MAGLEV, SLOTS, loss, maglev_table, names, network, spread

Found = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def found() -> Found:
    read: Found = json.loads(boxes.RESULT.read_text())
    return read


@pytest.mark.long  # seconds of arithmetic
def test_the_result_file_is_up_to_date(found: Found) -> None:
    assert found == boxes.results(), "script/bench scale/boxes"


def test_the_page_has_the_tables_that_come_out_now(found: Found) -> None:
    assert boxes.PAGE.read_text() == boxes.page(boxes.PAGE.read_text(), boxes.tables(found)), "script/bench scale/boxes"


def test_a_page_that_was_changed_by_hand_is_noticed(found: Found) -> None:
    text = boxes.PAGE.read_text()
    assert boxes.page(text.replace("| 100 | 100,000 |", "| 100 | 200,000 |"), boxes.tables(found)) == text
    with pytest.raises(AssertionError, match="no place for boxes"):
        boxes.page("", boxes.tables(found))


def test_another_seed_changes_only_where_clients_fall() -> None:
    one, other = spread(10, SLOTS[0], seed=1), spread(10, SLOTS[0], seed=2)
    assert (one.fewest, one.most) == (other.fewest, other.most) and one.uneven != other.uneven
    assert spread(10, SLOTS[0], seed=1) == one


@pytest.mark.parametrize("number", BOXES)
def test_the_parts_make_up_the_whole(number: int, found: Found) -> None:
    row = next(row for row in found["boxes"] if row["boxes"] == number)
    assert row["connections"] * number == pytest.approx(CONNECTIONS, rel=1e-6)
    assert network(number).share == pytest.approx(1 - 1 / number)
    shared = spread(number, SLOTS[0], seed=1)
    assert shared.fewest * number <= SLOTS[0] <= shared.most * number and shared.most - shared.fewest <= 1


@pytest.mark.parametrize("number", BOXES[1:])
def test_only_the_lost_box_s_slots_move(number: int) -> None:
    lost = loss(number, SLOTS[0])
    assert lost is not None and lost.others == 0 and lost.own == pytest.approx(1 / number, rel=0.03)
    assert 0 < lost.maglev_others < 0.05 < lost.modulo_others


def test_maglevs_table_is_even_as_its_paper_says() -> None:
    held = Counter(maglev_table(names(10)))
    assert held.total() == MAGLEV and max(held.values()) - min(held.values()) <= 1


def test_one_box_has_no_other_to_lose_it_to(found: Found) -> None:
    assert loss(1, SLOTS[0]) is None and found["boxes"][0]["evacuation"] == {}
