"""The page of benchmarks, README, sizing and the plots have what the result files say; the plots can be read."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks.page.results import TOP
from benchmarks.page.svg import Bar, bars, lines, number
from benchmarks.page.write import PLOTS, files, with_tables

_SVG = "{http://www.w3.org/2000/svg}"
MADE = files()


@pytest.mark.parametrize("path", sorted(MADE), ids=lambda path: str(path.relative_to(TOP)))
def test_pages_and_plots_are_those_of_the_result_files(path: Path) -> None:
    assert path.read_text() == MADE[path], "script/docs"


def test_no_plot_is_left_of_earlier_results() -> None:
    assert sorted(PLOTS.glob("*.svg")) == sorted(path for path in MADE if path.suffix == ".svg")


def test_the_page_shows_every_plot() -> None:
    shown = re.findall(r"!\[[^]]+\]\((plots/[^)]+)\)", (TOP / "docs/benchmarks.md").read_text())
    assert sorted(shown) == sorted(f"plots/{path.name}" for path in PLOTS.glob("*.svg"))


def test_a_number_typed_in_by_hand_is_noticed() -> None:
    text = "before\n<!-- begin a: written by script/docs -->\n| 1 |\n<!-- end a -->\nafter\n"
    assert with_tables(text.replace("| 1 |", "| 2 |"), {"a": "| 1 |\n"}) == text
    with pytest.raises(ValueError, match="no place for b"):
        with_tables(text, {"b": ""})


def parts(svg: str, kind: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(_SVG + kind))  # noqa: S314 (it was written a moment ago)


def test_bars_are_as_long_as_their_values_and_say_them() -> None:
    some = [Bar("one", 10.0), Bar("two", 20.0, 15.0, 40.0, "c0")]
    svg = bars("Title", "µs", {"a & b": some, "more": [Bar("none", 0.0)]})
    boxes = [float(str(one.get("width"))) for one in parts(svg, "rect") if "bar" in str(one.get("class"))]
    assert boxes[1] == pytest.approx(2 * boxes[0]) and boxes[2] == 0
    assert {"Title", "µs", "a & b", "one", "10.0", "two", "20.0", "more", "none", "0"} <= {
        one.text for one in parts(svg, "text")
    }
    assert "prefers-color-scheme: dark" in svg


def test_lines_keep_their_names_apart() -> None:
    some = {"a": [(1.0, 1.0), (100.0, 2.0)], "b": [(1.0, 1.1), (100.0, 2.0)], "c": [(100.0, 2.01)]}
    svg = lines("T", "ratio", "n", some, {"a": "c0"})
    places = {one.text: float(str(one.get("y"))) for one in parts(svg, "text")}
    heights = sorted(places[name] for name in "abc")
    assert min(after - before for before, after in pairwise(heights)) >= 15


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.0123, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (98765.4, "98,765")],
)
def test_numbers_have_three_digits(value: float, said: str) -> None:
    assert number(value) == said
