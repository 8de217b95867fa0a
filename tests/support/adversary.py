"""Chaos with adversaries in it: a local user who tries everything, and a service whose instances all misbehave.

The faults are those of `support.chaos`, on the service beside them. Whatever the adversaries do, its journal can be
read at every moment, its slots point to ready instances as soon as a fault is over, and its clients notice nothing.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portfleet.core.journal import from_json
from support import chaos
from support.chaos import CONFIG, Chaos, Report
from support.fleet_box import HOME, FleetBox
from support.odd_daemon import WAYS
from support.sandbox import wait_for
from support.watched import events, watch_status

_HERE = Path(__file__).parent
#: Its appearance makes the daemons misbehave.
_NOW = f"{HOME}/odd"
#: Faults that need a fleet in which all are well.
_NOT = ("two operators at once",)


class Besieged(Chaos):
    """Does faults to the service echo alone."""

    def _victim(self) -> tuple[str, int]:
        found = {name: seen for name, seen in self.box.status().items() if name.startswith("echo-")}
        name = self._random.choice(sorted(name for name, seen in found.items() if seen["state"] == "ready"))
        return name, found[name]["pid"]

    def _is_whole(self) -> bool:
        try:
            found = watch_status(self.box)
        except (OSError, ValueError, AssertionError):
            return False
        if any(name.startswith("echo-") for name in (*found["out"], *found["pending"], *found["kept"])):
            return False
        live = [seen for name, seen in self.box.status().items() if name.startswith("echo-") and seen["slots"]]
        return sum(seen["slots"] for seen in live) == 4096 and {seen["state"] for seen in live} == {"ready"}


def besiege(*, seed: int, seconds: float, kinds: tuple[str, ...] = ()) -> tuple[Report, int]:
    """Do rounds of faults for ``seconds``, of ``kinds`` (empty: all); return the report and the adversary's tries.

    AssertionError for what the adversary got, a journal that could not be read, and a service that was not whole again.
    """
    order, chosen = random.Random(seed), kinds or tuple(kind for kind in chaos.KINDS if kind not in _NOT)
    with chaos.chaos_box(CONFIG + _odd()) as box, _adversary(box, seed) as tries, _journal_watched(box):
        box.boxes.host.run("touch", _NOW)
        besieged = Besieged(box, seed)
        until = time.monotonic() + seconds
        while time.monotonic() < until or not besieged.report.faults:
            left = order.sample(chosen, len(chosen))
            while left:
                besieged.round([left.pop() for _ in range(min(len(left), order.choice((1, 2))))])
        assert events(box, "unexpected-error") == [], events(box, "unexpected-error")
    return besieged.report, tries[0]


def _odd() -> str:
    """Return a service of another user that has an instance for each way to misbehave."""
    daemon = (
        f'["{sys.executable}", "{_HERE / "odd_daemon.py"}", "{{port}}", "{_NOW}", {", ".join(map(json.dumps, WAYS))}]'
    )
    return f"""
[service.odd]
listen = [":7200"]
command = {daemon}
ports = "7300-7359"
instances = {len(WAYS)}
user = "games"
[service.odd.probe]
interval = "200ms"
timeout = "300ms"
"""


@contextmanager
def _adversary(box: FleetBox, seed: int) -> Iterator[list[int]]:
    """Have a local user try everything while the block runs; AssertionError if anything was got."""
    who = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    process = box.boxes.host.popen(*who, sys.executable, str(_HERE / "adversary_process.py"), HOME, str(seed))
    tries = [0]
    try:
        yield tries
    finally:
        said, wrong = process.communicate("\n", timeout=30)
    found = json.loads(said or f'{{"tries": 0, "got": [{json.dumps(wrong)}]}}')
    assert found["got"] == [] and found["tries"] > 0, found
    tries[0] = found["tries"]


@contextmanager
def _journal_watched(box: FleetBox) -> Iterator[None]:
    """Read the journal all the time while the block runs; AssertionError if it was ever none."""
    path, over, wrong = box.boxes.host.path(f"{HOME}/lib/journal.json"), threading.Event(), []

    def watch() -> None:
        while not over.wait(0.05):
            try:
                from_json(json.loads(path.read_text()))
            except Exception as error:  # noqa: BLE001 (whatever comes out is what is looked for)
                wrong.append(repr(error))

    watching = threading.Thread(target=watch)
    wait_for("there is a journal", path.exists)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
    assert wrong == [], wrong[:3]
