"""Events for systemd's journal, with their fields, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from portfleet.core.events import Event

_SOCKET = "/run/systemd/journal/socket"
#: syslog's priorities of our levels.
_PRIORITIES = {"info": "6", "warning": "4", "error": "3"}
_GIVEN = ("service", "instance", "kind", "reason", "operator", "number", "operation")


def sender(path: str = _SOCKET, environment: Mapping[str, str] = os.environ) -> Callable[[Event], None]:
    """Return what sends an event to the journal; it does nothing unless systemd has started this process' ancestors.

    It waits for nothing, and what the journal does not take is not sent again.
    """
    if "INVOCATION_ID" not in environment or not Path(path).exists():  # systemd.exec(5)
        return lambda _: None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def send(event: Event) -> None:
        with suppress(OSError):
            connection.sendto(datagram(event), path)

    return send


def datagram(event: Event) -> bytes:
    """Return an event as the journal takes it: a field has a length before it, so that it may hold line ends."""
    values = event.to_json()
    fields = {"MESSAGE": event.words, "SYSLOG_IDENTIFIER": "portfleet"}
    fields["PRIORITY"] = _PRIORITIES.get(str(values.get("level")), "6")
    fields |= {f"PORTFLEET_{name.upper()}": str(values[name]) for name in _GIVEN if values.get(name) is not None}
    data = {name: value.encode(errors="replace") for name, value in fields.items()}
    return b"".join(name.encode() + b"\n" + struct.pack("<Q", len(one)) + one + b"\n" for name, one in data.items())
