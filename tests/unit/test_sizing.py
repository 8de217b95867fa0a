"""The formulae of docs/sizing.md: the page has the constants of the function, and what was measured is within them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.lib import sizing
from benchmarks.lib.sizing import size
from benchmarks.page.results import sized

PAGE = (Path(__file__).parents[2] / "docs/sizing.md").read_text()
FORMULAE = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", PAGE.split("## The formulae")[1], re.MULTILINE))


@pytest.mark.parametrize(("row", "constants"), [
    ("cores", [f"{sizing.CPU * 1e6:.0f} µs", f"{sizing.BUSY:.0%}".replace("%", " %")]),
    ("instances", [f"{sizing.PER_INSTANCE:,}"]),
    ("memory, kernel", [f"{sizing.SOCKET:,} + {sizing.TRACKED:,} bytes"]),
    ("memory, daemons", [f"{sizing.STATE:,} bytes", f"{sizing.PROCESS / 1e6:.0f} MB"]),
    ("descriptors", [f"{sizing.UNEVEN}", f"{sizing.OWN}"]),
    ("conntrack", [f"{sizing.CLOSED} ×"]),
])  # fmt: skip
def test_the_page_has_the_constants_of_the_function(row: str, constants: list[str]) -> None:
    assert all(constant in FORMULAE[row] for constant in constants), FORMULAE[row]


@pytest.mark.parametrize("connections", [1, 20_000, 50_000, 150_000, 1_000_000])
def test_no_instance_is_asked_for_more_than_is_usually_allowed(connections: int) -> None:
    one = size(connections)
    assert one.descriptors <= 20_000 and one.instances * sizing.PER_INSTANCE >= connections
    assert one.ports == 2 * one.instances and one.cores >= 2


def test_twice_the_connections_take_no_more_than_twice_of_all() -> None:
    one, two = size(50_000), size(100_000)
    assert two.kernel == 2 * one.kernel
    assert one.user < two.user <= 2 * one.user and one.cores < two.cores <= 2 * one.cores


def test_what_was_measured_is_within_what_is_computed() -> None:
    found = sized()
    assert found, "script/bench designs --designs fleet-ours"
    short = [(n, what, values) for n, some in found.items() for what, values in some.items() if values[1] > values[0]]
    assert short == []
