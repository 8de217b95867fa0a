"""What a watcher tells the metrics' process, made up: for looks as values, and for a real process without a fleet."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from portfleet.core.durations import Durations

Entry = dict[str, Any]
#: Instances in one answer.
_PAGE = 64


def service_told(name: str, **changes: Any) -> Entry:
    """Return what a watcher tells of a service with two instances of its live colour, blue."""
    return {
        "name": name, "live": "blue", "release": "v1", "listen": [":7000"], "slots": 4096, "down": None, "canary": 0,
        "colours": {"blue": {"release": "v1", "since": "2026-01-31T12:00:00Z", "keep_until": None}}, "operation": None,
    } | changes  # fmt: skip


def instance_told(service: str, number: int, *, colour: str = "blue", **changes: Any) -> Entry:
    """Return what a watcher tells of an instance that serves and answered 110 requests."""
    return {
        "name": f"{service}-{colour}-{number}", "service": service, "colour": colour, "state": "ready",
        "wanted": "serving", "since": "2026-01-31T12:00:00Z", "why": None, "serving": True, "kept": False, "pid": None,
        "port": 7100 + number, "remote": None, "slots": 2048, "probe": 0.01, "ends": 0,
        "ejected": {"died": 0, "probe": 0}, "dropped": 0,
        "said": {
            "connections": 10, "max_connections": 19936, "accepted": 50, "requests": 109, "errors": 1,
            "bounds": [8.0, 11.3, 16.0], "counts": [100, 9, 1, 0],
        },
    } | changes  # fmt: skip


def fleet_told(*services: Entry, **changes: Any) -> Entry:
    """Return what a watcher tells of itself and its services."""
    return {
        "ok": True, "at": 1.0, "began": 0.5, "version": "0.1.0", "data_plane": "nftables", "supervisord": 2,
        "room": {"used": 10, "limit": 100, "dropped": 0}, "drift": False, "healed": {"table": 0, "rules": 0},
        "events": {"watching": 1},
        "loop_lag": Durations().to_json(), "transactions": {"point": Durations().to_json()}, "unexpected": 0,
        "warnings": [], "takes_orders": False, "services": [*services],
    } | changes  # fmt: skip


@contextmanager
def answering(path: Path, fleet: Entry, instances: Sequence[Entry], events: Sequence[Entry] = ()) -> Iterator[None]:
    """Answer on the socket ``path`` as a watcher does, with what ``fleet`` and ``instances`` are at that moment."""

    class Talk(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                request = json.loads(line)
                match request["command"]:
                    case "fleet":
                        answer = fleet
                    case "events":
                        since = request.get("since", 0)
                        last = events[-1]["number"] if events else 0
                        answer = {"ok": True, "events": [e for e in events if e["number"] > since], "last": last}
                    case _:
                        answer = page(request["after"])
                self.wfile.write(json.dumps(answer).encode() + b"\n")

    def page(first: int) -> Entry:
        end = first + _PAGE
        return {"ok": True, "instances": instances[first:end], "next": end if end < len(instances) else None}

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(str(path), Talk) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
