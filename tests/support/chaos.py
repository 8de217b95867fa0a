"""Faults under load, and what they may not cost: no connect refused, no reply lost on connections of others.

A round is one or two faults one after the other while clients hold connections and make new ones; afterwards every
client's report is judged. A fault is over when every instance serves again, the watcher is at work and `plan` is empty.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from support.fleet_box import HOME, PORTFLEET, FleetBox
from support.reachable import show_checkout
from support.sandbox import sandbox, wait_for
from support.watched import NAMED, events, load, pid_of, signal, watch_status

_HERE = Path(__file__).parent
_CLOCK, _SHIM = f"{HOME}/clock", f"{HOME}/clock.so"
#: Quick probes, and a hung instance is restarted, so that a fault is over within seconds.
CONFIG = (
    NAMED
    + """
[service.echo.probe]
interval = "300ms"
timeout = "300ms"
restart_after = "3s"
"""
)


@dataclass(frozen=True)
class Fault:
    """One fault: the instances it hit, whose own connections may end, when it ``began`` (monotonic seconds), and the
    seconds until all was whole again."""

    kind: str
    hit: frozenset[str]
    began: float
    seconds: float

    @property
    def ended(self) -> float:
        return self.began + self.seconds


@dataclass
class Report:
    """What came of it all."""

    seed: int
    faults: list[Fault] = field(default_factory=list)
    connects: int = 0
    refused: int = 0
    reset: int = 0
    replies: int = 0
    lost_beside: int = 0
    lost_hit: int = 0
    slowest: float = 0.0

    def counts(self) -> dict[str, int]:
        """Return how often each kind ran."""
        return {kind: sum(fault.kind == kind for fault in self.faults) for kind in KINDS}

    def text(self) -> str:
        """Return the report as people read it."""
        lines = [f"seed {self.seed}", f"{'fault':<26} {'ran':>4} {'whole again after: median':>26} {'longest':>9}"]
        for kind, ran in self.counts().items():
            times = [fault.seconds for fault in self.faults if fault.kind == kind] or [float("nan")]
            lines.append(f"{kind:<26} {ran:>4} {statistics.median(times):>24.1f} s {max(times):>7.1f} s")
        lines.append(
            f"{self.connects:,} connects, {self.refused} refused, slowest {self.slowest:.2f} s; "
            f"{self.reset} reset that a dead instance had accepted or queued"
        )
        lines.append(
            f"{self.replies:,} replies on long-lived connections; lost: {self.lost_beside} on connections of instances "
            f"that were not hit, {self.lost_hit} with those that were"
        )
        return "\n".join(lines)

    def as_json(self) -> str:
        """Return the report for programs."""
        faults = [{"kind": f.kind, "hit": sorted(f.hit), "seconds": round(f.seconds, 3)} for f in self.faults]
        return json.dumps(vars(self) | {"faults": faults, "counts": self.counts()}, indent=1)


@contextmanager
def chaos_box(config: str = CONFIG) -> Iterator[FleetBox]:
    """Return a fleet whose journal lies on a small disk of its own, and whose wall clock is the test's."""
    with sandbox() as boxes:
        box, host = FleetBox(boxes), boxes.host
        show_checkout(host)
        host.run("sh", "-c", f"mkdir -p {HOME}/lib && mount -t tmpfs -o size=4m tmpfs {HOME}/lib")
        compiler = shutil.which("cc") or "gcc"
        host.run(compiler, "-O1", "-shared", "-fPIC", "-o", _SHIM, str(_HERE / "clock.c"), "-ldl")
        set_clock(box, 0)
        box.write(config)
        # For every program of the box: supervisord takes only PORTFLEET_… over of the environment of its starter.
        host.run("sh", "-c", f"cp -a /etc {HOME}/etc && echo {_SHIM} > {HOME}/etc/ld.so.preload")
        host.run("mount", "--bind", f"{HOME}/etc", "/etc")
        box.portfleet("up", env={"PORTFLEET_CLOCK": _CLOCK})
        yield box


def set_clock(box: FleetBox, seconds: int) -> None:
    """Have the wall clock of the fleet's processes be off by ``seconds`` from now on."""
    path = box.boxes.host.path(_CLOCK)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(struct.pack("=q", seconds))


class Chaos:
    """Does faults to a fleet; each method is a kind and gives the instances it hit."""

    def __init__(self, box: FleetBox, seed: int) -> None:
        self.box, self.report, self._random = box, Report(seed), random.Random(seed)

    def round(self, kinds: list[str]) -> None:
        """Do ``kinds`` one after the other under load, and add up what the clients met; AssertionError if not whole."""
        with load(self.box, held=60, connects=50, interval=0.2) as clients:
            hit: set[str] = set()
            for kind in kinds:
                began = time.monotonic()
                now = KINDS[kind](self)
                wait_for(f"the fleet is whole after: {kind}", self._is_whole, seconds=60)
                self.report.faults.append(Fault(kind, frozenset(now), began, time.monotonic() - began))
                hit |= now
        connects, beside = clients.report["connects"], clients.lost_beside(*hit)
        report = self.report
        report.connects += connects["done"]
        report.refused += connects["refused"]
        report.reset += connects["reset"]
        report.slowest = max(report.slowest, connects["slowest"])
        report.replies += sum(held["replies"] for held in clients.report["held"])
        report.lost_beside += len(beside)
        report.lost_hit += len(clients.lost) - len(beside)
        done = ", ".join(f"{fault.kind} ({fault.seconds:.1f} s)" for fault in report.faults[-len(kinds) :])
        print(f"{len(report.faults):4} {done}: {connects['done']} connects", file=sys.stderr, flush=True)
        if beside or connects["refused"]:
            print(f"after {kinds}, which hit {sorted(hit)}: {beside} {connects}", file=sys.stderr)

    def kill_instance(self) -> set[str]:
        name, pid = self._victim()
        with self._comes("ejected", instance=name):
            signal(self.box, pid, "KILL")
        return {name}

    def stop_instance(self) -> set[str]:
        """Hang one until it is ejected; every other time it goes on then, else the watcher restarts it."""
        name, pid = self._victim()
        with self._comes("ejected", instance=name):
            signal(self.box, pid, "STOP")
        if self._random.random() < 0.5:
            signal(self.box, pid, "CONT")
        return {name}

    def kill_watcher(self) -> set[str]:
        with self._comes("watching"):
            signal(self.box, pid_of(self.box, "portfleet-watch"), "KILL")
        return set()

    def kill_supervisord(self) -> set[str]:
        before = pid_of(self.box, "supervisord")
        with self._comes("supervisord-back"), self._comes("watching"):
            signal(self.box, before, "KILL")
        assert pid_of(self.box, "supervisord") != before
        return set()

    def flush(self) -> set[str]:
        with self._comes("healed", lost="table"):
            self.box.boxes.host.run("nft", "flush", "ruleset")
        return set()

    def fill_conntrack(self) -> set[str]:
        """Keep the connection table full for a moment, and see that the watcher warns of it."""
        filling = self.box.boxes.host.popen(sys.executable, str(_HERE / "fill_conntrack.py"), "1.2")
        wait_for("the watcher warns of conntrack", lambda: self.warned() or filling.poll() is not None, seconds=240)
        out, said = filling.communicate(timeout=60)
        assert filling.returncode == 0, said
        most, limit = map(int, out.split())
        assert most >= limit and self.warned(), (out, watch_status(self.box))
        return set()

    def fill_disk(self) -> set[str]:
        """Fill the journal's disk; an instance dies meanwhile, and an operator is told that nothing can be written."""
        host = self.box.boxes.host
        host.run("sh", "-c", f"cat /dev/zero > {HOME}/lib/ballast 2>/dev/null || true")
        try:
            hit = self.kill_instance()
            refused = self.box.portfleet("drain", "echo/echo-blue-1", check=False)
            assert refused.returncode == 1 and "No space left" in refused.stderr, refused
            assert "Traceback" not in refused.stderr, refused.stderr
        finally:
            host.run("rm", "-f", f"{HOME}/lib/ballast")
        return hit

    def two_operators(self) -> set[str]:
        """Two change the service in the same moment: each is done, or is told who else is at it."""
        one, two = self._random.sample([f"echo/echo-blue-{number}" for number in (1, 2, 3, 4)], 2)
        verbs = [["drain", one, "--handoff"], self._random.choice([["drain", two, "--handoff"], ["apply"]])]
        running = [self.box.boxes.host.popen(PORTFLEET, "--home", HOME, *verb) for verb in verbs]
        for verb, process in zip(verbs, running, strict=True):
            _, said = process.communicate(timeout=60)
            assert process.returncode in (0, 5) and "Traceback" not in said, (verb, process.returncode, said)
        if verbs[1] == ["apply"] and running[0].returncode:  # it came second, and is done now
            wait_for("the drain is done", lambda: self.box.portfleet(*verbs[0], check=False).returncode == 0)
        for name in (one, two):
            wait_for(f"{name} serves again", partial(self._undrain, name), seconds=60)
        return set()

    def jump(self) -> set[str]:
        """Set the wall clock an hour or less forward or back, and have an instance die after it."""
        set_clock(self.box, self._random.randint(-3600, 3600))
        return self.kill_instance()

    def _undrain(self, name: str) -> bool:
        return self.box.portfleet("undrain", name, check=False).returncode == 0

    def _victim(self) -> tuple[str, int]:
        serving = {name: found["pid"] for name, found in self.box.status().items() if found["state"] == "ready"}
        name = self._random.choice(sorted(serving))
        return name, serving[name]

    def warned(self) -> bool:
        """Return whether the watcher warns of conntrack at the moment."""
        return any(entry["name"] == "conntrack" for entry in watch_status(self.box)["warnings"])

    @contextmanager
    def _comes(self, event: str, **fields: str) -> Iterator[None]:
        """See that the watcher logs ``event`` once more than before the block. By number: the clock may jump."""
        before = len(events(self.box, event, **fields))
        yield
        wait_for(f"{event} {fields}", lambda: len(events(self.box, event, **fields)) > before, seconds=30)

    def _is_whole(self) -> bool:
        try:
            found = watch_status(self.box)
        except (OSError, ValueError, AssertionError):
            return False
        if found["out"] or found["pending"] or found["kept"]:
            return False
        live = [instance for instance in self.box.status().values() if instance["wanted"] == "serving"]
        serving = all(instance["state"] == "ready" and instance["slots"] for instance in live)
        return serving and self.box.portfleet("plan", "--check", check=False).returncode == 0


KINDS: dict[str, Callable[[Chaos], set[str]]] = {
    "kill -9 of an instance": Chaos.kill_instance,
    "kill -9 of the watcher": Chaos.kill_watcher,
    "kill -9 of supervisord": Chaos.kill_supervisord,
    "SIGSTOP of an instance": Chaos.stop_instance,
    "nft flush ruleset": Chaos.flush,
    "conntrack table full": Chaos.fill_conntrack,
    "journal's disk full": Chaos.fill_disk,
    "two operators at once": Chaos.two_operators,
    "clock jumps": Chaos.jump,
}


def soak(*, seed: int, seconds: float, at_least: int) -> Report:
    """Do rounds of faults for ``seconds``, every kind ``at_least`` times however long that takes; gives the report."""
    order = random.Random(seed)
    with chaos_box() as box:
        chaos = Chaos(box, seed)
        until = time.monotonic() + seconds
        while time.monotonic() < until or min(chaos.report.counts().values()) < at_least:
            kinds = order.sample(list(KINDS), len(KINDS))
            while kinds:
                chaos.round([kinds.pop() for _ in range(min(len(kinds), order.choice((1, 2, 3))))])
    return chaos.report
