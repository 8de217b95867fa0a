"""One look at the fleet: what the watcher told, and what /proc and sock_diag(7) tell any user of its processes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from portfleet.core.errors import PortfleetError
from portfleet.core.states import State, still_draining
from portfleet.linux import processes, sockdiag
from portfleet.metrics.ask import Entry, Told, ask

#: Seconds for which a look serves whoever asks next: however many scrape or view, the watcher is asked once.
_FRESH = 1.0


@dataclass(frozen=True)
class Usage:
    """Processor time in seconds and resident memory in bytes of a process and its descendants."""

    cpu: float
    memory: int


@dataclass(frozen=True)
class Look:
    """The fleet at the Unix time ``at``; ``told`` is None if the watcher did not answer, and ``trouble`` says why.

    ``connections``: of instances, by name, as far as that is known; ``usage``: by pid, the watcher's too; ``took``: how
    many seconds the look took.
    """

    at: float
    told: Told | None = None
    trouble: str = ""
    connections: Mapping[str, int] = field(default_factory=dict)
    usage: Mapping[int, Usage] = field(default_factory=dict)
    took: float = 0.0

    @property
    def services(self) -> list[Entry]:
        """The services as the watcher told them."""
        return self.told.fleet["services"] if self.told else []

    @property
    def instances(self) -> tuple[Entry, ...]:
        """The instances as the watcher told them."""
        return self.told.instances if self.told else ()

    def of(self, service: str) -> list[Entry]:
        """Return the instances of a service."""
        return [one for one in self.instances if one["service"] == service]


def look(path: Path) -> Look:
    """Look now; ``path`` is the watcher's socket."""
    at, began = time.time(), time.monotonic()
    try:
        told = ask(path)
    except PortfleetError as error:
        return Look(at, trouble=error.message, took=time.monotonic() - began)
    pids = [one["pid"] for one in told.instances if one["pid"]]
    usage = {pid: found for pid in (*pids, told.pid) if (found := _usage(pid))}
    connections = _connections(told.instances)
    instances = tuple(
        one | {"state": still_draining(State(one["state"]), connections.get(one["name"], 0))} for one in told.instances
    )
    return Look(at, replace(told, instances=instances), "", connections, usage, time.monotonic() - began)


class Looks:
    """Looks that whoever asks within a second shares; threads may ask at the same time."""

    def __init__(self, path: Path, *, take: Callable[[Path], Look] = look) -> None:
        self._path, self._take, self._lock = path, take, Lock()
        self._last: tuple[float, Look] | None = None

    def now(self) -> Look:
        """Return a look that is no older than a second."""
        with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > _FRESH:
                taken = self._take(self._path)
                self._last = time.monotonic(), taken
            return self._last[1]


def _connections(instances: tuple[Entry, ...]) -> dict[str, int]:
    """Return how many connections instances have: by their own word, others on this box by the sockets of their ports.

    What a remote instance has only the kernel's connection table tells, which takes a right that this process lacks.
    """
    found = {one["name"]: one["said"]["connections"] for one in instances if one["said"]}
    silent = [one for one in instances if not one["said"] and one["remote"] is None and one["pid"]]
    by_port: Counter[int] = sockdiag.established() if silent else Counter()
    return found | {one["name"]: by_port[one["port"]] for one in silent}


def _usage(pid: int) -> Usage | None:
    found = [process for one in processes.tree(pid) if (process := processes.read(one))]
    return Usage(sum(one.cpu for one in found), sum(one.memory for one in found)) if found else None
