"""`script/bench --compare`: what differs beyond the noise of the rounds, which way, and what cannot be told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.lib.compare import compare, main


def rounds(*values: float) -> dict[str, Any]:
    return {"part": {"rounds": [{"p99": value, "per_s": 1000 / value} for value in values]}}


def names(old: Any, new: Any) -> dict[str, bool]:
    return {change.name: change.better for change in compare(old, new)[0]}


def test_rounds_that_overlap_are_noise() -> None:
    assert compare(rounds(10, 11, 12, 13), rounds(12.5, 14, 15, 16)) == ([], 2, 0)


def test_less_latency_is_better_and_fewer_a_second_are_worse() -> None:
    assert names(rounds(10, 11, 12, 13), rounds(5, 6, 7, 8)) == {"part.rounds.p99": True, "part.rounds.per_s": True}
    assert names(rounds(5, 6, 7, 8), rounds(10, 11, 12, 13)) == {"part.rounds.p99": False, "part.rounds.per_s": False}


def test_three_rounds_are_too_few_to_tell() -> None:
    assert compare(rounds(1, 2, 3), rounds(10, 11, 12)) == ([], 0, 2)


def test_a_slower_machine_changes_no_ratio() -> None:
    def turns(factor: float, own: float) -> dict[str, Any]:
        both = [(own * factor * one, factor * one) for one in (1, 1.1, 1.2, 1.3)]
        return {"rounds": [{"design": {"p99": mine}, "reference": {"p99": beside}} for mine, beside in both]}

    slower = compare(turns(1, 2), turns(3, 2))[0]
    assert [(change.name, change.ratio) for change in slower] == [("rounds.design.p99", False)]
    worse = compare(turns(1, 2), turns(1, 2.2))[0]
    assert [change.name for change in worse if change.ratio] == ["rounds.design.p99 / reference"]


def test_parts_of_one_file_alone_and_environments_are_left_out() -> None:
    old = {"a": [1, 2, 3, 4], "environment": {"load_average": [1, 2, 3, 4]}}
    new = {"b": [9, 9, 9, 9], "environment": {"load_average": [9, 9, 9, 9]}}
    assert compare(old, new) == ([], 0, 0)


@pytest.mark.parametrize(("factor", "said"), [(1, (0, "0 differ")), (2, (1, "WORSE  ratios"))])
def test_the_command_exits_1_if_a_ratio_got_worse(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    factor: int,
    said: tuple[int, str],
) -> None:
    for name, by in (("old", 1), ("new", factor)):
        (tmp_path / name).write_text(json.dumps({"ratios": [by * one for one in (1.0, 1.1, 1.2, 1.3)]}))
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "old"), str(tmp_path / "new")])
    assert main() == said[0] and said[1] in capsys.readouterr().out


def test_a_file_that_is_not_there_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "/nowhere/a.json", "/nowhere/b.json"])
    assert main() == 2 and "/nowhere/a.json" in capsys.readouterr().err
