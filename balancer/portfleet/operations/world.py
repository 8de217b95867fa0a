"""What operations look at and act on, as one value: the machine's own parts in the watcher, fakes in tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from portfleet.apply.applied import Applied
from portfleet.core.paths import Paths
from portfleet.dataplane.interface import DataPlane
from portfleet.store.journal import JournalStore
from portfleet.store.log import Log
from portfleet.supervise.supervisor import Supervisor
from portfleet.watch.ejector import Ejector


@dataclass(frozen=True)
class World:
    """The parts. ``plane`` is for other threads than the loop, which has its own; ``wake`` has the watcher look now."""

    paths: Paths
    store: JournalStore
    applied: Applied
    plane: DataPlane
    supervisor: Supervisor
    ejector: Ejector
    log: Log
    wake: Callable[[], object]
