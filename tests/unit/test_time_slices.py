"""Instances get short time slices when they listen; on kernels that have none nothing is shown but that all goes on."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from portfleet.linux import sockdiag
from portfleet.store.log import Log
from portfleet.watch import time_slices
from portfleet.watch.time_slices import TimeSlices
from support.slices import slice_of

NAME, SHORT = "echo-blue-1", 0.0001
_LISTEN = """
import signal, socket, sys
if sys.argv[1] != "now":
    sys.stdin.readline()
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
signal.pause()
"""


class Process:
    """A process that listens at once, or ``later``, when `listen` is called; below a shell if it is ``wrapped``.

    ``again and again``: the shell starts it anew whenever it ends, and each listens when `listen` is called.
    """

    def __init__(self, when: str = "now", *, wrapped: bool = False) -> None:
        words = [sys.executable, "-c", _LISTEN, when]
        self._popen = subprocess.Popen(
            ["sh", "-c", 'while "$@" || [ "$4" = "again and again" ]; do :; done', "sh", *words] if wrapped else words,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0,
        )  # fmt: skip
        self.pid, self.port = self._popen.pid, 0
        if when == "now":
            self.listen()

    def listen(self) -> None:
        """Have it listen, and learn its port."""
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._popen.stdin.write("\n")
        self._popen.stdin.flush()
        self.port = int(self._popen.stdout.readline())

    def children(self) -> list[int]:
        """Return the processes that its first one has started."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def end(self) -> None:
        """End it, unless it was ended before."""
        if self._popen.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._popen.communicate()


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def started(when: str = "now", *, wrapped: bool = False) -> Process:
            made = Process(when, wrapped=wrapped)
            stack.callback(made.end)
            return made

        yield started


def look(slices: TimeSlices, process: Process) -> None:
    """Have ``slices`` look at an instance whose first process is that of ``process``."""
    member = SimpleNamespace(name=NAME, want=SimpleNamespace(rule=SimpleNamespace(port=process.port)))
    there = {(listener.port, listener.inode) for listener in sockdiag.listeners()}
    slices.look([cast(Any, member)], {NAME: process.pid}, there)


def slices() -> tuple[TimeSlices, io.StringIO]:
    log = io.StringIO()
    return TimeSlices(Log(as_json=False, file=log)), log


def short(usual: float) -> float:
    """Return how long short slices are where they are ``usual``: as long if the kernel has none that can be chosen."""
    return min(usual, SHORT)


def test_one_that_listens_has_short_slices_and_one_that_starts_has_not(start: Start) -> None:
    made, process = slices()[0], start("later")
    usual = slice_of(process.pid)
    look(made, process)
    assert slice_of(process.pid) == usual

    process.listen()
    look(made, process)

    assert slice_of(process.pid) == short(usual)


def test_of_a_tree_of_processes_it_is_the_one_that_listens(start: Start) -> None:
    made, process = slices()[0], start(wrapped=True)
    usual = slice_of(process.pid)

    look(made, process)

    (child,) = process.children()
    assert slice_of(child) == short(usual) and slice_of(process.pid) == usual


def test_one_that_a_wrapper_starts_anew_is_seen_to_again(start: Start) -> None:
    made, process = slices()[0], start("again and again", wrapped=True)
    process.listen()
    look(made, process)
    (first,) = process.children()
    usual = slice_of(process.pid)

    os.kill(first, signal.SIGKILL)
    process.listen()
    look(made, process)

    (second,) = process.children()
    assert second != first and slice_of(second) == short(usual)


def test_each_start_is_seen_to(start: Start) -> None:
    made, first, second = slices()[0], start(), start()
    usual = slice_of(first.pid)

    look(made, first)
    look(made, second)

    assert slice_of(second.pid) == short(usual)


@pytest.mark.parametrize("policy", [os.SCHED_BATCH, os.SCHED_IDLE])
def test_a_policy_that_was_chosen_stays(start: Start, policy: int) -> None:
    made, process = slices()[0], start()
    os.sched_setscheduler(process.pid, policy, os.sched_param(0))

    look(made, process)

    assert os.sched_getscheduler(process.pid) == policy and slice_of(process.pid) != SHORT


def test_a_nice_value_stays(start: Start) -> None:
    made, process = slices()[0], start()
    os.setpriority(os.PRIO_PROCESS, process.pid, 7)

    look(made, process)

    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 7


def test_one_that_has_ended_meanwhile_is_no_trouble(start: Start) -> None:
    (made, log), process = slices(), start()
    there = {(process.port, 1)}
    process.end()

    made.look([], {}, there)
    look(made, process)

    assert log.getvalue() == ""


def test_a_machine_that_refuses_is_told_of_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int, seconds: float) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(time_slices, "set_slice", refused)
    made, log = slices()

    look(made, start())
    look(made, start())

    assert log.getvalue().count("unprivileged") == 1
    assert 'refused="a shorter time slice (Operation not permitted)"' in log.getvalue()
