"""Asks the watcher, on run/seen.sock, for all that it knows (`watch.snapshot`)."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portfleet.core.errors import PortfleetError
from portfleet.linux import unix_socket

#: Seconds for all answers. The watcher's loop is busy for longest when it puts back the rules of a large fleet (2 s).
_PATIENCE = 4.0

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
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(str(path))
            with connection.makefile("rwb") as stream:
                fleet = _answer(stream, {"command": "fleet"})
                instances: list[Entry] = []
                after: int | None = 0
                while after is not None:
                    part = _answer(stream, {"command": "instances", "after": after})
                    instances += part["instances"]
                    after = part["next"]
                return Told(unix_socket.peer(connection), fleet, tuple(instances))
    except (OSError, ValueError, KeyError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        raise PortfleetError(
            f"the watcher does not answer on {path}: {words}", hint="see: portfleet status; [metrics] in fleet.toml"
        ) from None


def _answer(stream: Any, request: Entry) -> Entry:
    stream.write(json.dumps(request).encode() + b"\n")
    stream.flush()
    answer = json.loads(_encodable(stream.readline()))
    if not answer.get("ok"):
        raise ValueError(answer.get("error"))
    return dict(answer)


def _encodable(line: bytes) -> bytes:
    """Return JSON without halves of characters, which arguments of a command line can hold and no text of ours can."""
    if b"\\ud" not in line:
        return line
    return json.dumps(json.loads(line), ensure_ascii=False).encode(errors="replace")
