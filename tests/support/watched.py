"""What tests of the watcher share: its log as values, clients that ask all the time, and faults."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from support.fleet_box import HOME, FleetBox
from support.sandbox import HOST4, client4, wait_for

_CLIENTS = str(Path(__file__).with_name("clients.py"))
_TESTS = Path(__file__).parents[1]
#: Four of our own daemon, whose answers tell the instance and repeat the request.
NAMED = f"""
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{{port}}", "--handler", "support.named:named"]
environment = {{ PYTHONPATH = "{_TESTS}:{_TESTS.parent / "daemon"}" }}
ports = "7100-7107"
instances = 4
min_ready = "off"
"""
#: Probes five times as quick as by default: what is shown does not depend on it, only how long it takes.
QUICK = """
[service.echo.probe]
interval = "200ms"
timeout = "200ms"
"""
_FIELD = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)')


@dataclass(frozen=True)
class Event:
    """One line of the watcher's log; ``at`` is a Unix time."""

    at: float
    name: str
    fields: dict[str, str]


def events(box: FleetBox, *names: str, **fields: str) -> list[Event]:
    """Return the watcher's events called one of ``names`` (all by default) that have these ``fields``."""
    found = []
    log = box.boxes.host.path(f"{HOME}/log/portfleet-watch.log")
    for line in log.read_text().splitlines() if log.exists() else ():
        time, _, rest = line.partition(" ")
        name, _, words = rest.partition(" ")
        try:
            at = datetime.fromisoformat(time).timestamp()
        except ValueError:
            continue  # not an event: what a crash of the watcher itself left behind, say
        values = {key: json.loads(value) if value[0] == '"' else value for key, value in _FIELD.findall(words)}
        if (not names or name in names) and fields.items() <= values.items():
            found.append(Event(at, name, values))
    return found


def wait_event(
    box: FleetBox, name: str, *, after: Event | None = None, count: int = 1, seconds: float = 60, **fields: str
) -> Event:
    """Wait until an event has come ``count`` times since ``after`` and give its last.

    AssertionError with the log's end where it does not come within ``seconds``.
    """

    def come() -> Event | None:
        found = [event for event in events(box, name, **fields) if after is None or event.at >= after.at]
        return found[-1] if len(found) >= count else None

    try:
        return wait_for(f"the watcher says {name} {fields} ({count} times)", come, seconds=seconds)
    except AssertionError as error:
        log = box.boxes.host.run("tail", "-n", "30", f"{HOME}/log/portfleet-watch.log", check=False).stdout
        raise AssertionError(f"{error}\n{log}") from None


def watch_status(box: FleetBox) -> dict[str, Any]:
    """Return the watcher's own status."""
    return ask_watcher(box, command="status")


def ask_watcher(box: FleetBox, **request: object) -> dict[str, Any]:
    """Ask the watcher itself, by its socket; AssertionError where it does not answer or there is none soon."""
    path = box.boxes.host.path(f"{HOME}/run/watch.sock")
    wait_for("the watcher has its socket", path.exists)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(connection.makefile().readline())
        assert answer["ok"], answer
        return answer


def signal(box: FleetBox, pid: int, name: str) -> None:
    """Send a signal to a process of the box."""
    box.boxes.host.run("kill", f"-{name}", str(pid))


def pid_of(box: FleetBox, program: str) -> int:
    """Return the process of a program of supervisord, or of supervisord itself."""
    if program == "supervisord":
        return int(box.boxes.host.run("cat", f"{HOME}/run/supervisord.pid").stdout)
    answer = box.boxes.host.run(
        str(Path(sys.executable).with_name("supervisorctl")), "-c", f"{HOME}/lib/supervisord.conf", "pid", program,
        check=False,
    ).stdout  # fmt: skip
    return int(answer) if answer.strip().isdigit() else 0


@dataclass
class Load:
    """Clients that hold connections and make new ones; ``report`` is there after the block of ``load``."""

    process: subprocess.Popen[str]
    report: dict[str, Any]
    #: Who each held connection was made to, by `explain`: its first answer may never have come.
    owners: dict[str, str]

    @property
    def refused(self) -> int:
        return int(self.report["connects"]["refused"])

    @property
    def lost(self) -> list[dict[str, Any]]:
        """Return those that held a connection and lost it."""
        return [held for held in self.report["held"] if held["lost"]]

    def lost_beside(self, *hit: str) -> list[dict[str, Any]]:
        """Return those that lost a connection to an instance that was not ``hit``."""
        return [held for held in self.lost if not {self.owners[held["source"]], *held["seen"]} & set(hit)]


@contextmanager
def load(box: FleetBox, *, held: int = 50, connects: int = 200, interval: float = 0.05) -> Iterator[Load]:
    """Have ``held`` clients ask on one connection each, and ``connects`` new connections a second beside them."""
    job = {
        "to": [HOST4, 7000],
        "sources": [client4(number) for number in range(held)],
        "from": [client4(number) for number in range(held, held + 3000)],
        "connects": connects,
        "interval": interval,
        "message": "who {id}\n",
    }
    process = box.boxes.clients.popen(sys.executable, _CLIENTS, "hold")
    made = Load(process, {}, {})
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "up\n"
        if held:
            made.owners.update(box.explain("echo", [client4(number) for number in range(held)]))
        yield made
        out, said = process.communicate("\n", timeout=60)
        assert process.returncode == 0, said
        made.report = json.loads(out)
    finally:
        process.kill()
        process.wait()
