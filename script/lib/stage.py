"""What the demo's scenes stand on: a box that runs the fleet, clients that ask, and words for who watches."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from portfleet.screen.output import filled

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))

from support.fleet_box import ORDINARY  # noqa: E402 # the line above makes it importable
from support.sandbox import HOST4, HOST6, Sandbox, wait_for  # noqa: E402 # the line above makes it importable

COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
WIDTH = min(100, shutil.get_terminal_size((100, 24)).columns)
PORT = 7000
PYTHON = sys.executable
CLIENTS = str(TOP / "tests/support/clients.py")


def paint(text: str, code: str) -> str:
    """Return ``text`` in an SGR colour on a terminal that has them, else as it is (https://no-color.org)."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


class NotShown(Exception):
    """A scene did not show what it claims."""


@dataclass
class Stage:
    """The sandbox with a fleet's home in it. ``checked`` counts the claims that were found true.

    Behind ``haproxy`` whoever types has no right of root's.
    """

    boxes: Sandbox
    home: Path
    haproxy: bool = False
    checked: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def environment(self) -> dict[str, str]:
        """What an operator's shell in the host's box has."""
        path = f"{TOP / '.venv/bin'}:{os.environ['PATH']}"
        return {"PATH": path, "PORTFLEET_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": str(WIDTH)}

    @property
    def _user(self) -> tuple[str, ...]:
        return ORDINARY if self.haproxy else ()

    def scene(self, title: str, text: str) -> None:
        """Begin a scene: its title, and what is going to be seen."""
        seconds = f"{time.monotonic() - self.began:4.1f} s"
        print("\n" + paint(f"━━ {title} ".ljust(WIDTH - len(seconds) - 1, "━") + f" {seconds}", "1;36"))
        print(textwrap.fill(" ".join(text.split()), WIDTH), flush=True)

    def type(self, command: str, *, status: int = 0, lines: int | None = None) -> str:
        """Type ``command`` in the host's shell, show its output (``lines`` of it at most), and give all of it."""
        print("\n  " + paint(f"host$ {command}", "1"), flush=True)
        shell = ("sh", "-c", f"exec 2>&1; {command}")
        done = self.boxes.host.run(*self._user, *shell, check=False, env=self.environment)
        said = done.stdout.splitlines()
        for line in said if lines is None else said[:lines]:
            print(filled("  " + line, WIDTH))
        if lines is not None and len(said) > lines:
            print("  " + paint(f"… {len(said) - lines:,} more lines", "2"))
        if done.returncode != status:
            raise NotShown(f"{command}: exit status {done.returncode}, expected {status}")
        return done.stdout

    def status(self) -> list[dict[str, Any]]:
        """Return the instances of the live colour from `portfleet status --json`."""
        verb = (*self._user, "portfleet", "status", "--json")
        said = self.boxes.host.run(*verb, check=False, env=self.environment).stdout
        service = json.loads(said)["services"][0]
        return [one for one in service["instances"] if one["colour"] == service["live"]]

    def ask(self, sources: Sequence[str]) -> dict[str, str]:
        """Connect to the service once from each address (all of one family); give each one's reply or error."""
        to = HOST6 if ":" in sources[0] else HOST4
        job = {"to": [to, PORT], "sources": sources, "message": "who\n"}
        said = self.boxes.clients.run(PYTHON, CLIENTS, "ask", text=json.dumps(job) + "\n").stdout
        return {one["source"]: one["reply"] or one["error"] for one in json.loads(said)}

    @contextmanager
    def talking(self, sources: Sequence[str], *, connects: int) -> Iterator[dict[str, Any]]:
        """Hold a connection from each address that asks all the time, and make ``connects`` new ones a second.

        What is given is filled with the clients' report when the block ends (see tests/support/clients.py).
        """
        job = {"to": [HOST4, PORT], "sources": sources, "message": "who\n", "connects": connects}
        clients = self.boxes.clients.popen(PYTHON, CLIENTS, "hold")
        assert clients.stdin and clients.stdout  # noqa: S101 # popen made both; said for the type checker
        print(json.dumps(job), file=clients.stdin, flush=True)
        if clients.stdout.readline() != "up\n":
            raise NotShown(f"the clients cannot connect: {clients.communicate()[1].strip().splitlines()[-1]}")
        report: dict[str, Any] = {}
        yield report
        report |= json.loads(clients.communicate("end\n", timeout=30)[0])

    def wait_serving(self, name: str, *, other_than: int) -> dict[str, Any]:
        """Wait until instance ``name`` serves again, in a process ``other_than`` that PID; give its status."""

        def reached() -> dict[str, Any] | None:
            mine = next(one for one in self.status() if one["name"] == name)
            return mine if mine["state"] == "ready" and mine["slots"] and mine["pid"] != other_than else None

        return wait_for(f"{name} serves again", reached, seconds=15)

    def histogram(self, counts: dict[str, int]) -> None:
        """Draw one bar per name."""
        most = max(counts.values())
        print()
        for name, count in sorted(counts.items()):
            print(f"  {name:<14} {count:>5}  " + paint("█" * round(40 * count / most), "36"), flush=True)

    def shows(self, claim: str, true: bool) -> None:
        """Say what has been shown, if it has; raises NotShown if not."""
        if not true:
            raise NotShown(claim)
        self.checked += 1
        print(paint("  ✓ ", "32") + filled("    " + claim, WIDTH).lstrip(), flush=True)


def names(replies: Iterable[str]) -> list[str]:
    """Return who answered: the first word of each reply of the `whoami` handler."""
    return [reply.split()[0] for reply in replies]
