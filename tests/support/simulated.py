"""A simulated fleet: operators, the watcher's engine and apply on a machine in memory, in an order that a seed decides.

A schedule is a few rounds. In each an operator gives a command, another one may give a second at any point of it, and
at points and moments of the seed's choosing something goes wrong: the watcher is killed, an instance crashes, hangs,
lies or takes no connection, supervisord or the disk is away, the kernel refuses. All of it is over within a quarter of
a minute of virtual time. Whatever the order, `Schedule.run` raises AssertionError unless what is promised holds.
"""

from __future__ import annotations

import errno
import io
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

from portfleet.core.changes import Transaction
from portfleet.core.errors import PortfleetError
from portfleet.linux import processes
from portfleet.store import atomic, locks
from portfleet.store.journal import JournalStore
from support.fake_operated import ECHO, REDIS, Box
from support.fake_parts import LoggingPlane
from support.fleets import fleet

#: Virtual seconds in which an operation must have ended, those in which something is wrong included.
ENDS = 600.0
#: Virtual seconds between two looks of the box; all of its processes look by themselves, too.
_MOMENT = 0.4
#: Virtual seconds after which clients whose connections may finish have all left.
_CLIENTS_LEAVE = 15.0
#: What goes wrong, besides a watcher that is killed and a second operator.
WRONGS = ("crash", "hang", "lie", "refuse", "busy", "arrive", "supervisord", "disk", "kernel", "eject")
#: Of these an instance may lose its own connections; whatever else goes wrong costs none.
_COSTLY = {"crash", "hang", "lie"}


class Schedule:
    """What one seed does. ``told`` is what happened, in order; ``wrong`` is what went wrong."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.seed = seed
        self.told: list[str] = []
        self.wrong: set[str] = set()
        self._chance = random.Random(f"schedule {seed}")
        self._held = {f"blue_{number}": self._chance.randrange(30) for number in (1, 2, 3)}
        self._box = Box(directory, self._chance.choice((ECHO, ECHO, REDIS)), **self._held)
        self._box.moment = _MOMENT
        self._arrived = 0
        self._disk_full = False

    def run(self) -> None:
        """Carry it out; raise AssertionError unless all that is promised holds at every step and in the end."""
        with self._disk(), self._checked(self._box.kernel):
            for _ in range(self._chance.randrange(1, 3)):
                self._round()
                self._check_rest()
            self._check_apply()

    def _round(self) -> None:
        box, chance = self._box, self._chance
        if not self._command():
            return
        points = {chance.randrange(40): chance.choice((box.kill, self._command)) for _ in range(chance.randrange(3))}
        passed = [0]

        def at(name: str) -> None:
            if locks.held(box.paths.journal.with_suffix(".lock")) and points.get(passed[0] + 1) == self._command:
                return  # another operator would wait for it, in this process for ever: at the next point, then
            passed[0] += 1
            if act := points.pop(passed[0], None):
                self.told.append(f"at {name!r}: {'the watcher is killed' if act == box.kill else 'another operator'}")
                act()

        box.at = at
        for _ in range(chance.randrange(3)):
            self._go_wrong(chance.choice(WRONGS))
        box.plan_events([(box.clock.slept + _CLIENTS_LEAVE, self._clients_leave)])
        box.finish(seconds=ENDS)
        self._put_right()

    def _put_right(self) -> None:
        """End whatever is wrong still."""
        box, daemons = self._box, self._box.daemons
        box.at = lambda _: None
        box.forget_events()
        box.supervisor.away, box.kernel.refuses, self._disk_full = False, 0, False
        for wrong in (daemons.silent, daemons.lying, daemons.refusing, daemons.busy):
            wrong.clear()
        for known in box.supervisor.known.values():
            known.state = "RUNNING" if known.state == "STARTING" else known.state
        self._eject()

    def _clients_leave(self) -> None:
        for name in [*self._box.daemons.connections]:
            self._box.daemons.close(name, 10**6)

    def _command(self) -> bool:
        """Give a command; return whether it began an operation. Refusals are in words."""
        words = self._words()
        try:
            with redirect_stderr(io.StringIO()):
                said = self._box.command(*words)
        except PortfleetError as error:
            assert error.message, words
            said = re.sub(r"2[0-9-]+T[0-9:]+Z", "TIME", error.message.splitlines()[0])  # of this machine's clock
            self.told.append(f"{' '.join(words)}: refused: {said}")
            return False
        self.told.append(f"{' '.join(words)}: {said.strip().splitlines()[0] if said.strip() else ''}")
        return bool(self._box.journal.operations)

    def _words(self) -> list[str]:
        chance = self._chance
        one, other = chance.sample(("echo/1", "echo/2", "echo/3"), 2)
        ending = chance.choice(([], ["--rate", "5"], ["--deadline", "9s", "--then", chance.choice(("kill", "evict"))]))
        handoff = chance.choice(([], ["--handoff"]))
        match chance.randrange(10):
            case 0 | 1:
                return ["drain", one, *(handoff or ending)]
            case 2:
                return ["maint", one, *(handoff or ending)]
            case 3:
                return ["undrain", one]
            case 4:
                return ["migrate", one, other[-1], *chance.choice(([], ["--share", "30%"]))]
            case 5:
                return ["cutover", "echo", "--release", chance.choice(("v1", "v2", "v3"))]
            case 6:
                return ["rollback", "echo"]
            case 7:
                return ["restart", chance.choice(("echo", one))]
            case 8:
                return ["scale", "echo", str(chance.randrange(1, 6)), *chance.choice(([], ["--drain"]))]
            case _:
                return [chance.choice(("rebalance", "cancel")), "echo"]

    def _go_wrong(self, what: str) -> None:
        """Have something go wrong in a while, and be right again in a while."""
        begins = self._chance.random() * 4
        ends = begins + self._chance.random() * 10
        wrong, right = self._wrong(what)
        self.wrong.add(what)
        self.told.append(f"after {begins:.1f} s, until {ends:.1f} s: {what}")
        events = [(self._box.clock.slept + begins, wrong), (self._box.clock.slept + ends, right)]
        self._box.plan_events(events)

    def _wrong(self, what: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return what makes ``what`` go wrong, and what ends that."""
        box, name = self._box, f"echo-{self._chance.choice(('blue', 'green'))}-{self._chance.randrange(1, 4)}"
        daemons, most = box.daemons, self._chance.choice((0, 1, 10**6))

        def nothing() -> None:
            return None

        def arrive() -> None:
            if daemons.connections[name]:  # which only one with a process has
                self._arrived += most % 10
                daemons.connections[name] += most % 10

        match what:
            case "crash":
                return lambda: box.supervisor.crash(name), nothing
            case "hang":
                return lambda: daemons.silent.add(name), daemons.silent.clear
            case "lie":
                return lambda: daemons.lying.update({name: most}), daemons.lying.clear
            case "refuse":
                return lambda: daemons.refusing.update({name: "no room"}), daemons.refusing.clear
            case "busy":
                return lambda: daemons.busy.update({name: 3}), daemons.busy.clear
            case "arrive":
                return arrive, nothing
            case "supervisord":
                return lambda: setattr(box.supervisor, "away", True), lambda: setattr(box.supervisor, "away", False)
            case "disk":
                return lambda: setattr(self, "_disk_full", True), lambda: setattr(self, "_disk_full", False)
            case "kernel":
                return lambda: setattr(box.kernel, "refuses", self._chance.randrange(1, 9)), nothing
            case _:
                return lambda: self._eject(name), self._eject

    def _eject(self, *names: str) -> None:
        """Have no others be out than those of ``names`` that serve."""
        known = {*names} & {*filter(None, self._box.kernel.read_slots("echo"))}
        self._box.eject(*(name.removeprefix("echo-") for name in known))

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Have writes fail while the disk is full."""
        write = atomic.write

        def write_if_there_is_room(path: Path, data: bytes, *arguments: object) -> None:
            if self._disk_full:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            write(path, data, *arguments)

        atomic.write = write_if_there_is_room  # type: ignore[assignment] # the same, but for a full disk
        try:
            yield
        finally:
            atomic.write = write

    @contextmanager
    def _checked(self, plane: LoggingPlane) -> Iterator[None]:
        """Have every transaction be judged by what it leaves."""
        run = plane.run

        def run_and_check(transaction: Transaction) -> None:
            run(transaction)
            self._check_slots("in between")

        plane.run = run_and_check  # type: ignore[method-assign] # the same, and a look
        try:
            yield
        finally:
            plane.run = run  # type: ignore[method-assign] # as before

    def _check_slots(self, when: str) -> None:
        """Raise AssertionError if a slot leads nowhere, or to an instance without a process though another has one."""
        box = self._box
        owners = box.kernel.read_slots("echo")
        if not owners:
            return
        there = {name for name, known in box.supervisor.known.items() if known.state in ("RUNNING", "STARTING")}
        assert None not in owners, f"{when}: {owners.count(None)} slots lead nowhere"
        gone = {*owners} - there - {*box.out}
        assert not gone or not ({*owners} & there) or "crash" in self.wrong, f"{when}: slots lead to {gone}: no process"

    def _check_rest(self) -> None:
        """Raise AssertionError unless all is in order while nothing runs."""
        box = self._box
        self._check_slots("at rest")
        journal = JournalStore(box.paths.journal).read()
        assert journal is not None and not journal.operations, "an operation has not ended"
        numbers = [entry.number for entry in journal.history]
        assert len({*numbers}) == len(numbers), f"an operation ended twice: {numbers}"
        there, lost = sum(box.daemons.connections.values()), sum(box.daemons.lost.values())
        told = f"{there} there, {box.daemons.ended} ended, {lost} lost"
        assert there + box.daemons.ended + lost == sum(self._held.values()) + self._arrived, f"miscounted: {told}"
        assert not lost or self.wrong & _COSTLY, f"lost by nothing that costs any: {told}"

    def _check_apply(self) -> None:
        """Raise AssertionError unless an apply mends what is left, and a second one finds nothing to do."""
        box = self._box
        box.fake.apply(fleet(box.text))
        _, plan = box.fake.plan(fleet(box.text))
        assert not plan.steps, f"a second apply does: {[step.describe() for step in plan.steps]}"
        self._check_slots("after apply")


@contextmanager
def _no_processes() -> Iterator[None]:
    """Hide this machine's processes, whose environments would be read at each step, 4 ms and more each time."""
    table = processes.table
    processes.table = dict
    try:
        yield
    finally:
        processes.table = table


def simulate(seed: int) -> Schedule:
    """Carry out the schedule of ``seed``; AssertionError and other errors come with what happened as a note."""
    with TemporaryDirectory(dir="/dev/shm") as directory, _no_processes():
        schedule = Schedule(seed, Path(directory))
        try:
            schedule.run()
        except BaseException as error:
            told = "\n  ".join(schedule.told)
            error.add_note(f"seed {seed}; again with: script/soak simulate 1 {seed}\n  {told}")
            raise
    return schedule
