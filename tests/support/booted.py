"""Deployed hosts as clients and operators see them. Runs where script/lib/nspawn.py has made the hosts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nspawn import Host
from support.sandbox import client4

CLIENTS = Path(__file__).with_name("clients.py")


def disk(host: Host) -> str:
    """Return a digest of what may not change by looking: configuration, programs and installed packages."""
    listed = (
        "find /etc /opt /srv /usr/local /var/lib/portfleet -type f -exec sha256sum {} + 2>/dev/null | sort; dpkg -l"
    )
    return host.run(f"({listed}) | sha256sum").stdout


def status(host: Host, service: str = "echo") -> dict[str, Any]:
    """Return one service of `portfleet status --json`."""
    services = json.loads(host.run("portfleet status --json || test $? -ge 7").stdout)["services"]
    (found,) = (one for one in services if one["name"] == service)
    return dict(found)


def ready(host: Host) -> bool:
    """Return whether every instance of both services is ready."""
    return all(
        one["state"] == "ready" for name in ("echo", "kv") for one in status(host, name)["instances"] if one["slots"]
    )


def adopted(host: Host) -> bool:
    """Return whether every instance of both services goes on below no supervisord."""
    return ready(host) and all(
        i["adopted"] for name in ("echo", "kv") for i in status(host, name)["instances"] if i["pid"]
    )


def ask(host: Host, *, port: int = 7000, message: str = "x\n", count: int = 1) -> list[str | None]:
    """Send one request from each of ``count`` clients and give the replies."""
    job = {"to": [host.address, port], "sources": [client4(i) for i in range(count)], "message": message}
    command = [sys.executable, str(CLIENTS), "ask"]
    done = subprocess.run(command, input=json.dumps(job) + "\n", capture_output=True, text=True, check=True)
    return [one["reply"] for one in json.loads(done.stdout)]


class Load:
    """Clients of one host; ``report`` is there after the block."""

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}

    @property
    def lost(self) -> list[dict[str, Any]]:
        """The long-lived connections that broke."""
        return [held for held in self.report["held"] if held["error"]]

    @property
    def failed(self) -> int:
        """Requests that failed, on long-lived and on new connections."""
        connects = self.report["connects"]
        return len(self.lost) + int(connects["refused"]) + int(connects["reset"])

    def __str__(self) -> str:
        connects, held = self.report["connects"], self.report["held"]
        return (
            f"{len(held)} held connections: {len(self.lost)} lost, {sum(one['replies'] for one in held):,} replies; "
            f"{connects['done']:,} new ones: {connects['refused']} refused, {connects['reset']} reset, "
            f"slowest {connects['slowest']:.2f} s"
        )


@contextmanager
def load(
    host: Host, *, port: int = 7000, held: int = 100, connects: int = 50, message: str = "{id}\n"
) -> Iterator[Load]:
    """Hold connections with requests in flight, and make new ones, while the block runs."""
    sources = [client4(2000 * host.number + i) for i in range(held + 100)]
    job = {"to": [host.address, port], "sources": sources[:held], "from": sources[held:], "connects": connects}
    job |= {"message": message, "timeout": 5}
    given = Load()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, str(CLIENTS), "hold"], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "up\n"
            yield given
            output, _ = process.communicate("\n", timeout=60)
        finally:
            process.kill()
    given.report = json.loads(output)
