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
    """Return what the browser prints; it does not wait for the end of the page's stream."""
    argv = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--timeout=2000"]
    argv += [f"--user-data-dir={home}", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("size", _SIZES)
def test_it_renders(page: str, size: str, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"

    def taken() -> bool:
        chromium(tmp_path / "home", f"--window-size={size}", f"--screenshot={picture}", page)
        return picture.exists()

    wait_for("there is a picture", taken, seconds=60)
    assert picture.stat().st_size > 50_000, "a page without services takes less"


def test_a_browser_runs_the_pages_own_script_and_no_name(page: str, tmp_path: Path) -> None:
    def shown() -> str:
        return chromium(tmp_path / "home", "--dump-dom", page)

    found = wait_for("its script has run", lambda: text if ">connecting" in (text := shown()) else None, seconds=60)
    assert "<title>portfleet on " in found and "taken</title>" not in found
    assert found.count("<script") == 1 and "<img" not in found
