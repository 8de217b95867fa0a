"""The two locks: their holder is named, and the kernel frees them when the holder is killed."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from portfleet.core.errors import Exit, PortfleetError
from portfleet.store import locks
from support.sandbox import wait_for

HOLD_OPERATION = """
import sys
from pathlib import Path
from portfleet.store import locks
with locks.operation(Path(sys.argv[1]), service="echo", why="cutover to v2"):
    print("held", flush=True)
    sys.stdin.readline()
"""
HOLD_TABLE = """
import sys
from pathlib import Path
from portfleet.store import locks
with locks.table(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""

Start = Callable[[str, Path], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python script with a path as its argument and wait until it says "held"."""
    with ExitStack() as stack:

        def started(script: str, path: Path) -> subprocess.Popen[str]:
            pipe = subprocess.PIPE
            process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=pipe, stdout=pipe, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            return process

        yield started


def test_the_holder_is_named_with_who_since_when_and_why(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "service-echo.lock"
    process = start(HOLD_OPERATION, path)

    holder = locks.holder_of(path)
    with pytest.raises(PortfleetError) as caught, locks.operation(path, service="echo", why="apply"):
        pytest.fail("two at once")

    assert holder is not None
    assert (holder.pid, holder.why, holder.who) == (process.pid, "cutover to v2", locks.operator())
    assert caught.value.code is Exit.LOCKED
    assert caught.value.message == f"service echo is locked by {holder}"
    assert f"(pid {process.pid}) since 20" in str(holder) and str(holder).endswith("Z: cutover to v2")
    assert "portfleet lock echo" in caught.value.hint


def test_who_only_looks_at_a_lock_keeps_nobody_from_it(tmp_path: Path) -> None:
    path = tmp_path / "service-echo.lock"
    looking = path.open("a+")
    fcntl.flock(looking, fcntl.LOCK_SH)
    asked = itertools.count()

    def clock() -> float:
        """Let the one who looks be done as soon as the lock was found taken."""
        if next(asked) == 1:
            looking.close()
        return 0.0

    with locks.operation(path, service="echo", why="apply", clock=clock):
        assert next(asked) >= 2


def test_a_lock_that_stays_nameless_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "service-echo.lock"
    with path.open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(PortfleetError, match=rf"service e is locked by pid {os.getpid()} \(") as caught,
            locks.operation(path, service="e", why=""),
        ):
            pytest.fail("two at once")
    assert caught.value.code is Exit.LOCKED


def test_a_killed_holder_holds_nothing(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "service-echo.lock"
    process = start(HOLD_OPERATION, path)
    process.kill()
    process.wait()

    assert locks.holder_of(path) is None
    with locks.operation(path, service="echo", why="apply"):
        holder = locks.holder_of(path)
        assert holder is not None and (holder.pid, holder.why) == (os.getpid(), "apply")
    assert locks.holder_of(path) is None


def test_a_child_that_lives_on_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    path = tmp_path / "service-echo.lock"
    with locks.operation(path, service="echo", why="up"):
        child = subprocess.Popen(["sleep", "30"], close_fds=True)
    try:
        assert locks.holder_of(path) is None
    finally:
        child.kill()
        child.wait()


def test_nobody_holds_what_is_not_there_or_not_readable_as_a_lock(tmp_path: Path) -> None:
    assert locks.holder_of(tmp_path / "none") is None
    (tmp_path / "odd").write_text("odd")
    assert locks.holder_of(tmp_path / "odd") is None


def test_many_are_taken_together_or_not_at_all(start: Start, tmp_path: Path) -> None:
    start(HOLD_OPERATION, tmp_path / "b")

    taking = locks.operations(tmp_path.joinpath, ["c", "b", "a"], why="apply")
    with pytest.raises(PortfleetError, match="service b is locked"), taking:
        pytest.fail("two at once")

    assert [locks.holder_of(tmp_path / name) for name in "ac"] == [None, None]


def test_the_table_lock_is_waited_for(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "table.lock"
    process = start(HOLD_TABLE, path)
    waiter = subprocess.Popen(
        [sys.executable, "-c", HOLD_TABLE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        # It has opened the file and is at the lock: only then is it let go.
        wait_for("the waiter waits", lambda: str(path) in _open_files(waiter.pid))
        assert process.stdin is not None and waiter.stdout is not None
        process.stdin.close()
        assert waiter.stdout.readline() == "held\n"
    finally:
        waiter.kill()
        waiter.communicate()


def test_the_table_lock_is_not_waited_for_for_ever(start: Start, tmp_path: Path) -> None:
    start(HOLD_TABLE, tmp_path / "table.lock")
    with pytest.raises(PortfleetError) as caught, locks.table(tmp_path / "table.lock", seconds=0.05):
        pytest.fail("two at once")
    assert caught.value.code is Exit.LOCKED and "fuser" in caught.value.hint


def test_a_lock_of_a_moment_names_its_holder_and_is_not_waited_for_without_patience(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "table.lock"
    process = start(HOLD_TABLE, path)
    for take in (locks.table, locks.journal):
        began = time.monotonic()
        with pytest.raises(locks.Locked) as caught, take(path, seconds=0):
            pytest.fail("two at once")
        assert time.monotonic() - began < 0.1
        assert f"{path} is held by pid {process.pid} (" in caught.value.message
        assert caught.value.code is Exit.LOCKED
    with pytest.raises(locks.Locked, match="already running") as caught, locks.watcher(path):
        pytest.fail("two at once")


def test_the_second_watcher_waits_when_it_is_to_and_says_for_whom(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "watch.lock"
    process = start(HOLD_TABLE, path)
    told: list[str] = []

    def wait(reason: str) -> None:
        told.append(reason)
        assert process.stdin is not None
        process.stdin.close()

    with locks.watcher(path, wait=wait):
        assert locks.held(path)
    assert len(told) == 1 and f"pid {process.pid} " in told[0]


def test_a_lock_file_is_its_owners_alone_and_is_no_link(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with locks.table(tmp_path / "table.lock"), locks.operation(tmp_path / "service", service="e", why=""):
            assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    finally:
        os.umask(before)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PortfleetError, match="cannot open the lock"), locks.table(tmp_path / "link"):
        pytest.fail("it followed a link")
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_is_away_is_an_error_with_words(tmp_path: Path) -> None:
    with (
        pytest.raises(PortfleetError, match=r"cannot open the lock .*: No such file"),
        locks.table(tmp_path / "x" / "y"),
    ):
        pytest.fail("there is no such directory")


def test_a_killed_holder_of_the_table_lock_holds_nothing(start: Start, tmp_path: Path) -> None:
    process = start(HOLD_TABLE, tmp_path / "table.lock")
    process.kill()
    process.wait()
    with locks.table(tmp_path / "table.lock", seconds=0):
        pass


def _open_files(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue  # closed meanwhile
    return found
