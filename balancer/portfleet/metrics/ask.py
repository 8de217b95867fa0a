"""Asks the watcher, on run/seen.sock, for all that it knows (`watch.snapshot`)."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portfleet.core.errors import PortfleetError
from portfleet.linux import unix_socket

#: Seconds for all answers. The watcher's loop is busy for longest when it puts back the rules of a large fleet (2 s).
_PATIENCE = 4.0
#: Seconds for the answer to an order: the watcher answers within nine, and the browser is waited for no longer either.
_ORDER = 9.5

#: An object of an answer, by the names of `watch.snapshot`.
Entry = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What the watcher told: its process, the fleet, and every instance that is to have a process or is remote."""

    pid: int
    fleet: Entry
    instances: tuple[Entry, ...]


def ask(path: Path, *, seconds: float = _PATIENCE) -> Told:
    """Return what the watcher knows; raise PortfleetError if it does not answer within ``seconds``."""
    with _connected(path, seconds) as stream:
        fleet = _answer(stream, {"command": "fleet"})
        instances: list[Entry] = []
        after: int | None = 0
        while after is not None:
            part = _answer(stream, {"command": "instances", "after": after})
            instances += part["instances"]
            after = part["next"]
        return Told(stream.pid, fleet, tuple(instances))


@dataclass(frozen=True)
class _Stream:
    """A connection to the process ``pid``."""

    file: io.BufferedRWPair
    pid: int


@contextmanager
def _connected(path: Path, seconds: float) -> Iterator[_Stream]:
    """Return a connection to the watcher; whatever goes wrong in the block is PortfleetError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(str(path))
            with connection.makefile("rwb") as file:
                yield _Stream(file, unix_socket.peer(connection))
    except (OSError, ValueError, KeyError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or repr(error)
        raise PortfleetError(
            f"the watcher does not answer on {path}: {words}", hint="see: portfleet status; [metrics] in fleet.toml"
        ) from None


def ask_order(path: Path, request: Entry, *, seconds: float = _ORDER) -> Entry:
    """Return the answer to a request of the page's (`watch.desk`); one that is refused has the ``kind`` of refusal.

    Raise PortfleetError if the watcher does not answer.
    """
    with _connected(path, seconds) as stream:
        return _exchange(stream, request)


def ask_events(path: Path, since: int | None, *, seconds: float = _PATIENCE) -> tuple[list[Entry], int]:
    """Return the events after number ``since`` (None: the newest ones), and the number to ask from the next time.

    Raise PortfleetError if the watcher does not answer.
    """
    with _connected(path, seconds) as stream:
        request = {"command": "events"} | ({} if since is None else {"since": since})
        answer = _answer(stream, request)
        found: list[Entry] = answer["events"]
        # One that numbers anew has lost its file: begin anew as well.
        last = found[-1]["number"] if found else min(since or 0, answer["last"])
        return found, last


def _answer(stream: _Stream, request: Entry) -> Entry:
    answer = _exchange(stream, request)
    if not answer.get("ok"):
        raise ValueError(answer.get("error"))
    return answer


def _exchange(stream: _Stream, request: Entry) -> Entry:
    stream.file.write(json.dumps(request).encode() + b"\n")
    stream.file.flush()
    return dict(json.loads(_encodable(stream.file.readline())))


def _encodable(line: bytes) -> bytes:
    """Return JSON without halves of characters, which arguments of a command line can hold and no text of ours can."""
    if b"\\ud" not in line:
        return line
    return json.dumps(json.loads(line), ensure_ascii=False).encode(errors="replace")
