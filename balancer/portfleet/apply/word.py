"""The watcher's word for instances that are well, which spares a command from asking each of them itself.

It may be old by one interval of the probes, so only what shows something goes by it: `plan`, and `status` of a large
fleet. Whatever changes something looks itself. The word counts for one process of an instance, by the config that was
applied last; from a watcher that hangs, ends, is of another version or says something else there is none, and for an
instance without it everything is as if there were no watcher.
"""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Mapping

from portfleet import __version__
from portfleet.core import typed
from portfleet.core.paths import Paths
from portfleet.core.status import DaemonState, Status
from portfleet.core.value import value
from portfleet.store import atomic, state_file

#: Seconds for all of it: its loop is free but for the moment of a transaction.
_PATIENCE = 1.0


@value
class Word:
    """What the watcher knows of an instance that is well: its process, and what that ``said`` last, if it says so."""

    pid: int
    said: Status | None


@value
class _Told:
    """One instance. ``said``: its connections, the most it takes, the versions of the hand-off that it speaks."""

    pid: int | None
    said: tuple[int, int, tuple[int, ...]] | None


@value
class _Answer:
    """One answer of `watch.snapshot`, about some instances; ``next`` is the number of the one that follows."""

    ok: bool
    version: str
    config: tuple[int, int] | None
    well: Mapping[str, _Told]
    next: int | None


def of_watcher(paths: Paths, *, clock: Callable[[], float] = time.monotonic) -> dict[str, Word]:
    """Return the watcher's word, by instance; nothing if it does not give one."""
    deadline, found, after = clock() + _PATIENCE, dict[str, Word](), 0
    config = atomic.version(paths.applied)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(str(paths.watch_socket))
            with connection.makefile("rb") as file:
                while True:
                    connection.settimeout(max(0.001, deadline - clock()))
                    connection.sendall(json.dumps({"command": "well", "after": after}).encode() + b"\n")
                    answer = _read(file)
                    if not answer.ok or answer.version != __version__ or answer.config != config:
                        return {}
                    found |= {name: _word(told.pid, told) for name, told in answer.well.items() if told.pid is not None}
                    if answer.next is None:
                        return found
                    if answer.next <= after or clock() > deadline:
                        return {}
                    after = answer.next
    except (OSError, ValueError):
        return {}


def _read(file: io.BufferedReader) -> _Answer:
    return typed.read(_Answer, state_file.parse(file.readline()), where="the watcher's answer")


def _word(pid: int, told: _Told) -> Word:
    if told.said is None:
        return Word(pid, None)
    connections, most, versions = told.said
    return Word(pid, Status(DaemonState.READY, connections, most, frozenset(versions)))
