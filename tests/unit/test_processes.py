"""What /proc tells of processes, which choose their names and children themselves."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from portfleet.daemons.rates import sample
from portfleet.linux import processes

DEPTH = 150
#: A process whose name is no text, with a chain of children as long as its argument says. Says the last one's pid.
_ODD = """
import ctypes, os, sys, time
ctypes.CDLL(None).prctl(15, b"\\xff\\xc3)\\x1b[31m 7", 0, 0, 0)  # PR_SET_NAME
for _ in range(int(sys.argv[1])):
    if os.fork():
        os.wait()
        os._exit(0)
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def odd() -> Iterator[tuple[int, int]]:
    """Return the first and the last process of a chain."""
    with subprocess.Popen(
        [sys.executable, "-c", _ODD, str(DEPTH)], stdout=subprocess.PIPE, text=True, process_group=0
    ) as first:
        try:
            assert first.stdout is not None
            yield first.pid, int(first.stdout.readline())
        finally:
            os.killpg(first.pid, 9)


def test_a_tree_may_be_as_deep_as_it_likes_and_names_are_bytes(odd: tuple[int, int]) -> None:
    first, last = odd
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + DEPTH // 2)
    try:
        found = list(processes.tree(first))
    finally:
        sys.setrecursionlimit(limit)
    assert found[0] == first and last in found and len(found) == len(set(found)) == DEPTH + 1
    process = processes.read(last)
    assert process is not None and process.parent in found and process.started >= (processes.start_time(first) or 0)
    taken = sample(first, None)
    assert taken is not None and taken.memory > 0
