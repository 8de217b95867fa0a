"""How tests share the machine: three workers for each processor, and those that measure time after the others.

Tests of fleets mostly start processes and wait for them, so there are more workers than processors, which together
they keep busy (script/lib/pytest.sh). A test that judges how long something took is marked ``timed``.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first, so that no worker is left with it in the end, and what is timed last."""
    items.sort(key=lambda item: (_timed(item), item.get_closest_marker("early") is None))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let a timed test run when no worker runs one that is not."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return (yield)
    with _turn(item.config, int(worker.removeprefix("gw")), timed=_timed(item)):
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Hand out tests in their order."""
    from support.in_order import InOrder  # where booted hosts are tested there is no xdist

    return InOrder(config, log)


def _timed(item: pytest.Item) -> bool:
    return item.get_closest_marker("timed") is not None


@contextmanager
def _turn(config: pytest.Config, worker: int, *, timed: bool) -> Iterator[None]:
    """Hold the locks of this run for one test, which worker number ``worker`` runs.

    There is one for each processor: a timed test has one alone, so as many run side by side, for most of what they do
    is wait; the others share all of them.
    """
    processors = range(os.cpu_count() or 1)
    with ExitStack() as held:
        for processor in [worker % len(processors)] if timed else processors:
            lock = held.enter_context((Path(config.option.basetemp).parent / f"timed.{processor}").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX if timed else fcntl.LOCK_SH)
            held.callback(fcntl.flock, lock, fcntl.LOCK_UN)  # also if a child has inherited the descriptor
        yield
