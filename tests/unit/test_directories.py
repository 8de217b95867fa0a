"""What others may do below lib/ and run/: pass through to their own sockets, and nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from portfleet.core.paths import Paths, resolve
from portfleet.store.directories import make_directories


def modes(*directories: Path) -> dict[str, int]:
    """Return the permissions of ``directories`` and of what lies in them."""
    found = [path for directory in directories for path in (directory, *directory.rglob("*"))]
    return {path.name: path.stat(follow_symlinks=False).st_mode & 0o777 for path in found}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o011)  # pytest's own are closed to other users
    return resolve(home=str(tmp_path / "home"), config=None)


def test_made_anew_they_are_the_owners(paths: Paths) -> None:
    before = os.umask(0)
    try:
        make_directories(paths)
    finally:
        os.umask(before)
    assert modes(paths.lib, paths.run) == {"lib": 0o700, "programs": 0o700, "run": 0o711}


def test_what_an_earlier_version_left_open_is_closed_and_others_own_is_left_alone(paths: Paths) -> None:
    for directory in (paths.lib, paths.programs, paths.run, paths.run / "games"):
        directory.mkdir(mode=0o755, parents=True)
    files = (
        paths.table_lock, paths.watch_lock, paths.operation_lock("echo"), paths.journal, paths.out,
        paths.journal.with_suffix(".lock"), paths.programs / "echo-blue-1.conf", paths.run / "games" / "x",
    )  # fmt: skip
    for file in files:
        file.write_text("")
        file.chmod(0o666)
    (paths.run / "x.sock").symlink_to(paths.run / "games" / "x")
    make_directories(paths)
    found = modes(paths.lib, paths.run)
    assert (found.pop("lib"), found.pop("programs"), found.pop("run")) == (0o700, 0o700, 0o711)
    assert (found.pop("games"), found.pop("x"), found.pop("x.sock")) == (0o755, 0o666, 0o777)
    assert {*found.values()} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_cannot_hold_a_lock(paths: Paths) -> None:
    make_directories(paths)
    files = (paths.table_lock, paths.watch_lock, paths.operation_lock("echo"), paths.journal.with_suffix(".lock"))
    for file in files:
        file.write_text("")
        file.chmod(0o644)
    assert _flock(files[0]).returncode == 0  # a test that can fail
    make_directories(paths)
    for file in files:
        done = _flock(file)
        assert b"Permission denied" in done.stderr and done.returncode


def _flock(file: Path) -> subprocess.CompletedProcess[bytes]:
    """Take and leave a lock as the user nobody."""
    return subprocess.run(["flock", "-n", str(file), "true"], user="nobody", capture_output=True, check=False, cwd="/")
