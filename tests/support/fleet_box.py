"""A whole fleet in boxes: the real `portfleet`, supervisord, nftables and daemons, with clients in another box."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import warm
from support.sandbox import HOST4, HOST6, BoxError, Sandbox, sandbox, wait_for

HOME = "/run/pf"
PORTFLEET = str(Path(sys.executable).with_name("portfleet"))

#: Four of our own daemon. What is shown waits for no `min_ready`, unless it is about that.
ECHO = """
[service.echo]
listen = [":7000"]
command = ["portfleet-daemon", "--port", "{port}", "--handler", "portfleet_daemon.handlers:whoami"]
ports = "7100-7107"
instances = 4
min_ready = "off"
"""
#: Four of a single-threaded daemon that is not ours. It saves nothing, and its own guard would refuse outsiders.
REDIS = """
[service.kv]
listen = [":6000"]
command = ["redis-server", "--port", "{port}", "--save", "", "--protected-mode", "no"]
ports = "6100-6107"
instances = 4
min_ready = "off"
[service.kv.probe]
send = "PING\\r\\n"
expect = "PONG"
"""


@dataclass(frozen=True)
class Asked:
    """What one client met: ``reply`` is None if there was none, ``error`` then says why."""

    source: str
    reply: str | None
    error: str | None


#: A user without any right of root's, now and later.
ORDINARY = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
    "--no-new-privs",
)  # fmt: skip
#: The data planes that a fleet's proofs run on: the kernel's as root, HAProxy's as an ordinary user.
PLANES = ("nftables", "haproxy")
_plane: ContextVar[str] = ContextVar("plane", default=PLANES[0])


@contextmanager
def on_plane(name: str) -> Iterator[None]:
    """Have fleets that are made within the block be on the data plane ``name``."""
    token = _plane.set(name)
    try:
        yield
    finally:
        _plane.reset(token)


@dataclass(frozen=True)
class FleetBox:
    """A host that runs a fleet from ``/run/pf/fleet.toml``, and its clients.

    On the data plane "haproxy" every verb, and so the whole fleet, runs as an ordinary user.
    """

    boxes: Sandbox
    plane: str = "nftables"

    def write(self, config: str) -> None:
        """Write fleet.toml, for this data plane."""
        if self.plane == "haproxy" and config:
            config = on_haproxy(config)
        script = f"mkdir -p {HOME} && chown {self.owner} {HOME} && cat > {HOME}/fleet.toml"
        self.boxes.host.run("sh", "-c", script, text=config)

    @property
    def owner(self) -> int:
        """The user whose fleet it is."""
        return 65534 if self.plane == "haproxy" else 0

    def argv(self, *words: str) -> tuple[str, ...]:
        """Return the command line of a verb, by the user whose fleet it is."""
        return (*(ORDINARY if self.plane == "haproxy" else ()), PORTFLEET, "--home", HOME, *words)

    @property
    def operator(self) -> str:
        """Who runs verbs, as locks tell it."""
        return "nobody@host" if self.plane == "haproxy" else "root@host"

    def portfleet(
        self, *words: str, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb; raises BoxError with what it printed when ``check`` and it does not exit 0."""
        if self.boxes.host.users or "LD_LIBRARY_PATH" in (env or {}):  # neither can be had of a process that runs
            return self.boxes.host.run(*self.argv(*words), check=check, env=env)
        return warm.run(
            self.boxes.host, "portfleet.__main__", "--home", HOME, *words,
            check=check, env=env, ordinary=self.plane == "haproxy",
        )  # fmt: skip

    def look(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `status`; raises BoxError if it cannot tell. An exit code from 7 on tells that not all is well."""
        done = self.portfleet("status", *words, check=False)
        if done.returncode not in (0, 7, 8, 9):
            raise BoxError(f"portfleet status: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def status(self) -> dict[str, dict[str, Any]]:
        """Return every instance of every service by name, as `status --json` says it."""
        services = json.loads(self.look("--json").stdout)["services"]
        return {instance["name"]: instance for service in services for instance in service["instances"]}

    def explain(self, service: str, addresses: Sequence[str]) -> dict[str, str]:
        """Return {address: instance} as `explain` says it."""
        answers = json.loads(self.portfleet("explain", service, "--json", *addresses).stdout)
        return {answer["address"]: answer["instance"] for answer in answers}

    def ask(self, sources: Sequence[str], *, port: int, message: str, lines: int = 1) -> list[Asked]:
        """Send ``message`` once from each of ``sources`` to the host's service port and read ``lines`` of reply."""
        found: dict[str, Asked] = {}
        for host, some in (
            (HOST4, [source for source in sources if ":" not in source]),
            (HOST6, [source for source in sources if ":" in source]),
        ):
            job = {"to": [host, port], "sources": some, "message": message, "lines": lines}
            said = warm.run(self.boxes.clients, "support.clients", "ask", text=json.dumps(job) + "\n").stdout
            found |= {one["source"]: Asked(one["source"], one["reply"], one["error"]) for one in json.loads(said)}
        return [found[source] for source in sources]

    def who(self, sources: Sequence[str], *, port: int = 7000) -> dict[str, str]:
        """Return {address: instance} by the daemons' own answers (handler whoami); AssertionError if any failed."""
        asked = self.ask(sources, port=port, message="who\n")
        assert [one for one in asked if one.reply is None] == []
        return {one.source: (one.reply or "").split()[0] for one in asked}

    def redis_ports(self, sources: Sequence[str], *, port: int = 6000) -> dict[str, int]:
        """Return {address: port of the redis it met} by redis' own answer; AssertionError for any that failed."""
        asked = self.ask(sources, port=port, message="CONFIG GET port\r\n", lines=5)
        assert [one for one in asked if one.reply is None] == []
        return {one.source: int((one.reply or "").split("\n")[-1]) for one in asked}

    def rules(self, *what: str) -> str:
        """Return nft's listing of ``what`` (the whole ruleset by default) with handles, without counts.

        Behind HAProxy: what its files say.
        """
        if self.plane == "haproxy":
            script = f"cat {HOME}/run/haproxy/*.cfg {HOME}/run/haproxy/services/* 2>/dev/null"
            return self.boxes.host.run("sh", "-c", script, check=False).stdout
        return self.boxes.host.run("nft", "-s", "-a", "list", *(what or ("ruleset",))).stdout

    def processes(self) -> dict[int, str]:
        """Return the command line of every process of the box, those that list them left out, by pid in the box."""
        script = "for p in /proc/[0-9]*; do echo ${p#/proc/} $(tr '\\0' ' ' < $p/cmdline 2>/dev/null); done"
        lines = [line.partition(" ") for line in self.boxes.host.run("sh", "-c", script).stdout.splitlines()]
        return {int(pid): words for pid, _, words in lines if words and script[:20] not in words}

    def files(self) -> dict[str, str]:
        """Return a digest of every file of the home that operators or later runs read.

        Not logs, nor the config, nor what the watcher notes for itself in run/.
        """
        paths = ("log/*", "run/*.lock", "run/*.json", "fleet.toml")
        left_out = [word for path in paths for word in ("!", "-path", f"{HOME}/{path}")]
        found = self.boxes.host.run("find", HOME, "-type", "f", *left_out, "-exec", "md5sum", "{}", "+").stdout
        lines = found.splitlines()
        return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}

    def snapshot(self) -> dict[str, object]:
        """Return all that a refused verb must leave as it was."""
        return {"rules": self.rules(), "processes": self.processes(), "files": self.files()}

    def settled(self) -> None:
        """Wait until nothing is left to do; AssertionError with the plan if something stays."""

        def planned() -> subprocess.CompletedProcess[str]:
            return self.portfleet("plan", "--check", check=False)

        try:
            wait_for("plan --check is quiet", lambda: planned().returncode == 0)
        except AssertionError as error:
            error.add_note(str(planned()))
            raise

    def calm(self) -> None:
        """Wait until nothing changes by itself any more: all is as wanted, and the watcher has its keeper table."""
        self.settled()
        if self.plane == "nftables":
            wait_for("the keeper is there", lambda: "table inet portfleet-keeper" in self.rules())

    def wait_state(self, name: str, state: str) -> dict[str, Any]:
        """Wait until an instance is in ``state`` and give its status."""

        def there() -> dict[str, Any] | None:
            found = self.status()[name]
            return found if found["state"] == state else None

        return wait_for(f"{name} is {state}", there)


def on_haproxy(config: str) -> str:
    """Return a config as it is behind HAProxy, whose instances listen on 127.0.0.1 alone."""
    for daemon, option in (("portfleet-daemon", "--host"), ("redis-server", "--bind")):
        config = config.replace(f'"{daemon}", ', f'"{daemon}", "{option}", "{{host}}", ')
    if "[fleet]" in config:
        return config.replace("[fleet]", '[fleet]\ndataplane = "haproxy"')
    return f'[fleet]\ndataplane = "haproxy"\n{config}'


@contextmanager
def fleet_box(config: str = "", *, other: bool = False, users: bool = False) -> Iterator[FleetBox]:
    """Return a fleet box (see `sandbox`), with ``config`` up where it is given; all of it ends with the block."""
    with sandbox(other=other, users=users) as boxes:
        made = FleetBox(boxes, _plane.get())
        made.write(config)
        if config:
            made.portfleet("up")
        yield made
