"""The page in a real browser: it renders at three sizes, and no hostile name is run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.page_server import page_server
from support.sandbox import wait_for

pytestmark = pytest.mark.full
_PORT = 19790
_SIZES = ("1280,1700", "800,1500", "390,2200")


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    with page_server(_PORT, 3, 6):
        yield f"http://127.0.0.1:{_PORT}/"


def chromium(home: Path, *words: str) -> str:
    """Return what the browser prints; it ends two seconds after the page is there, however long its stream goes on."""
    argv = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--timeout=2000"]
    argv += [f"--user-data-dir={home}", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("size", _SIZES)
def test_it_renders(page: str, size: str, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    chromium(tmp_path / "home", f"--window-size={size}", f"--screenshot={picture}", page)
    assert picture.stat().st_size > 20_000, "a blank page of this size takes less"


def test_a_browser_runs_no_name_and_its_page_is_brought_up_to_date(page: str, tmp_path: Path) -> None:
    def shown() -> str:
        return chromium(tmp_path / "home", "--dump-dom", page)

    found = wait_for("its script has run", lambda: text if "live," in (text := shown()) else None)
    assert "<title>portfleet on " in found and "taken</title>" not in found
    assert found.count("<script") == 1 and "<img" not in found
