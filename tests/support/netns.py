"""This process, for a while, in a box's network namespace: for what works in process, as libnftables does."""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.sandbox import Box

_CLONE_NEWNET = 0x40000000  # linux/sched.h; os.setns came with Python 3.12


@contextmanager
def network_of(box: Box) -> Iterator[None]:
    """Run the block with this thread in the network namespace of ``box``; sockets opened there stay there."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(handle: int) -> None:
        if libc.setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    with Path("/proc/thread-self/ns/net").open() as ours, Path(f"/proc/{box.pid}/ns/net").open() as theirs:
        enter(theirs.fileno())
        try:
            yield
        finally:
            enter(ours.fileno())


@contextmanager
def beside(box: Box, work: Callable[..., None], *arguments: object) -> Iterator[None]:
    """Have a process in the network namespace of ``box`` do ``work(*arguments, up)``, once that has set ``up``."""
    context = multiprocessing.get_context("fork")
    up = context.Event()
    with network_of(box):
        process = context.Process(target=work, args=(*arguments, up), daemon=True)
        process.start()
    try:
        assert up.wait(20)
        yield
    finally:
        process.kill()
        process.join()
