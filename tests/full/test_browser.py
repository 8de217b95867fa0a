"""The page in a real browser, of a fleet with bad names: it can be used at each size, and no name is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.audited import SIZES, faults
from support.chromium import Tab, chromium
from support.page_server import page_server
from support.sandbox import wait_for

pytestmark = pytest.mark.full
_PORT = 19790
_URL = f"http://127.0.0.1:{_PORT}/"


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with page_server(_PORT, 3, 6), chromium() as browser, browser.tab() as made:
        wait_for("the fleet is shown", lambda: shown(made))
        yield made


def shown(tab: Tab) -> bool:
    try:
        return tab.go(_URL) == 200 and "service-0-blue-1" in tab.text()
    except (IndexError, AssertionError):  # it does not listen yet
        return False


@pytest.mark.parametrize("size", SIZES)
def test_it_renders(tab: Tab, size: str, tmp_path: Path) -> None:
    for dark in (False, True):
        width, height, finger = SIZES[size]
        tab.look(width=width, height=height, dark=dark, phone=finger)
        tab.go(_URL)
        picture = tmp_path / f"page-{'dark' if dark else 'light'}.png"
        tab.picture(picture)
        assert picture.stat().st_size > 50_000, "a page without services takes less"


def test_everybody_can_read_and_hit_everything(tab: Tab) -> None:
    tab.go(_URL)
    assert faults(tab) == []


def test_a_browser_runs_the_pages_own_script_and_no_name(tab: Tab) -> None:
    tab.go(_URL)
    live = "document.getElementById('live').textContent"
    wait_for("its script follows the stream", lambda: tab.value(live) == "live,")
    assert str(tab.value("document.title")).startswith("portfleet on ")
    assert tab.value("document.querySelectorAll('script').length") == 1 and not tab.value("document.images.length")
    before = tab.value("document.getElementById('at').textContent")
    wait_for("it is brought up to date", lambda: tab.value("document.getElementById('at').textContent") != before)
    assert tab.complaints() == []


def test_nothing_moves_for_who_wants_it_still(tab: Tab) -> None:
    moves = "getComputedStyle(document.querySelector('polyline')).transitionDuration"
    tab.look(width=1440, height=900, still=True)
    assert tab.value(moves) == "0s"
    tab.look(width=1440, height=900)
    assert tab.value(moves) == "0.2s"
