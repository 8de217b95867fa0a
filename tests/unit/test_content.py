"""Whether files have changed, by what the kernel says of them and by what is in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from portfleet.linux import content
from portfleet.linux.content import Content, content_of, digest_of


def tree(folder: Path) -> Path:
    """Return a release in ``folder``."""
    (folder / "lib").mkdir(parents=True)
    for name in ("app", "lib/one", "lib/two"):
        (folder / name).write_text("old")
    (folder / "current").symlink_to("lib/one")
    return folder


def seen(place: Path) -> Content:
    """Return what ``place`` is, which is there."""
    found = content_of([str(place)])
    assert found is not None
    return found


def _replaced(release: Path) -> None:
    """Put another file in the place of one, as old and as large as that."""
    old = (release / "lib/one").stat()
    (release / "new").write_text("new")
    os.utime(release / "new", ns=(old.st_atime_ns, old.st_mtime_ns))
    (release / "new").replace(release / "lib/one")


def _linked_anew(release: Path) -> None:
    (release / "current").unlink()
    (release / "current").symlink_to("lib/two")


@pytest.mark.parametrize(
    ("change", "newest"),
    [
        (lambda release: (release / "lib/one").write_text("newer"), "lib/one"),
        (_replaced, "lib/one"),
        (_linked_anew, "current"),
        (lambda release: (release / "lib/three").write_text("new"), "lib/three"),
        (lambda release: (release / "lib/two").unlink(), None),
    ],
)
def test_every_way_to_change_a_release_shows(
    tmp_path: Path, change: Callable[[Path], object], newest: str | None
) -> None:
    release = tree(tmp_path / "app")
    before, held = seen(release), digest_of([str(release)])
    change(release)
    after = seen(release)
    assert after.stamp != before.stamp
    assert digest_of([str(release)]) != held
    assert newest is None or (after.newest == str(release / newest) and after.at >= before.at)


def test_what_leaves_the_content_as_it_is_does_not_show(tmp_path: Path) -> None:
    release = tree(tmp_path / "app")
    before, held = seen(release), digest_of([str(release)])
    (release / "app").chmod(0o700)
    (tmp_path / "linked").hardlink_to(release / "lib/one")
    (release / "lib/__pycache__").mkdir()
    (release / "lib/__pycache__/one.pyc").write_text("")
    assert (seen(release).stamp, digest_of([str(release)])) == (before.stamp, held)


def test_files_that_were_written_once_more_hold_what_they_held(tmp_path: Path) -> None:
    release = tree(tmp_path / "app")
    before, held = seen(release), digest_of([str(release)])
    (release / "app").unlink()
    (release / "app").write_text("old")
    assert seen(release).stamp != before.stamp
    assert digest_of([str(release)]) == held


def test_of_large_files_the_time_of_modification_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = tree(tmp_path / "app")
    monkeypatch.setattr(content, "_READ", 4)
    held = digest_of([str(release)])
    os.utime(release / "app", ns=(1, 1))  # the first is read
    assert digest_of([str(release)]) == held
    os.utime(release / "lib/two", ns=(1, 1))
    assert digest_of([str(release)]) != held


def test_a_file_is_content_too_and_what_is_not_there_is_none(tmp_path: Path) -> None:
    release = tree(tmp_path / "app")
    assert seen(release / "app").newest == str(release / "app")
    assert content_of([str(tmp_path / "away")]) is None
    assert content_of([]) is None


def test_of_a_release_without_end_the_upper_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tree(tmp_path / "app")
    monkeypatch.setattr(content, "_MOST", 4)
    before = seen(release)
    (release / "lib/one").write_text("newer")
    assert seen(release) == before
    (release / "app").write_text("newer")
    assert seen(release).stamp != before.stamp
