"""A daemon's control socket: one JSON object a line, asked and answered."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


class ControlError(Exception):
    """The daemon did not answer, or answered that it cannot."""


def ask(path: Path, command: str, *, seconds: float = 0.5, **arguments: Any) -> dict[str, Any]:
    """Send one command and give its answer; raises ControlError (no socket, no answer in time, an error reply)."""
    request = json.dumps({"command": command, **arguments}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(str(path))
            connection.sendall(request)
            data = bytearray()
            while not data.endswith(b"\n"):
                if not (part := connection.recv(65536)):
                    raise ControlError(f"{path}: closed without an answer")
                data += part
        answer = json.loads(data)
    except (OSError, ValueError) as error:
        raise ControlError(f"{path}: {error}") from None
    if not isinstance(answer, dict) or not answer.get("ok"):
        raise ControlError(f"{path}: {answer.get('error') if isinstance(answer, dict) else answer!r}")
    return answer
