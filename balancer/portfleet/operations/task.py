"""What an operation works with: its own record in the journal, the service as it shall be, and hands to change both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Generic, TypeVar, cast

from portfleet.apply.learn import learn_from
from portfleet.apply.programs import Programs
from portfleet.core.derive import settle
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.errors import Exit, PortfleetError
from portfleet.core.journal import Journal
from portfleet.core.operations import Operation, Work
from portfleet.core.printable import quantity
from portfleet.core.records import ServiceRecord
from portfleet.daemons.capability import cannot_hand_off
from portfleet.operations.world import World
from portfleet.store import faults
from portfleet.store.locks import Locked

W = TypeVar("W", bound=Work)

#: How often progress is written to the journal, in seconds.
_PROGRESS = 0.5
#: How often something is tried that does not answer, and seconds between.
TRIES, AGAIN = 5, 1.0
#: Seconds until what needs a lock is tried again while another process has it; it is held for a moment only.
LOCKED = 0.02
#: In how many parts slots are pointed at most; seconds between two, for instances and ejections to have their turn.
_PARTS, _BREATH = 8, 0.003
#: Seconds between two looks whether new instances live on.
_ALIVE = 0.2


class Cancelled(Exception):
    """An operator asked for the operation to be given up."""


class OperationFailed(Exception):
    """The operation cannot go on; the text says why. ``settled``: what was done stays, and the text says what holds."""

    def __init__(self, words: str, *, settled: bool = False, code: Exit = Exit.FAILED) -> None:
        super().__init__(words)
        self.settled, self.code = settled, code


class CannotUndo(Exception):
    """The operation cannot be undone any more, so it was finished; the text says what holds."""

    def __init__(self, words: str, *, code: Exit = Exit.DONE) -> None:
        super().__init__(words)
        self.code = code


class SlotsRefused(PortfleetError):
    """The kernel refuses to point slots, however often it is tried: nothing is begun again for that."""


def not_yet(failed: Mapping[str, str]) -> str:
    """Return in words which instances got their slots back and are not ready, by ``failed``, {name: why not}."""
    return "; ".join(f"{name} is to serve again, but: {reason}" for name, reason in failed.items())


@dataclass
class Task(Generic[W]):
    """One running operation. What may take long is a coroutine; nothing here blocks the watcher's loop for long.

    ``undoing``: it is being undone and cannot be cancelled any more; ``undone``: what came of that, as an exit code.
    """

    operation: Operation
    world: World
    undoing: bool = False
    undone: Exit = Exit.DONE
    #: When slots were pointed last, in monotonic seconds; None if not since the watcher has begun or resumed it.
    pointed: float | None = None
    _written: float = 0.0
    #: The processes that were found ready, by instance.
    _ready: dict[str, int] = field(default_factory=dict)

    @property
    def work(self) -> W:
        """Return what was asked of the operation, and what it remembers."""
        return cast(W, self.operation.work)

    def desired(self) -> Desired:
        """Return what shall be now, by the config that was applied and the journal."""
        return self.world.applied.desired()

    def want(self) -> DesiredService:
        """Return the operation's service as it shall be now; raises OperationFailed if it is gone."""
        services = self.desired().services
        if self.operation.service not in services:
            raise OperationFailed(f"service {self.operation.service} is not in the config any more", settled=True)
        return services[self.operation.service]

    def instances(self, names: Collection[str]) -> list[DesiredInstance]:
        """Return those of the service's instances with a process that are called one of ``names``."""
        return [want for want in self.want().instances if want.name in names and want.program is not None]

    def serves(self, name: str) -> bool:
        """Return whether an instance is neither ejected nor new, by the watcher's word."""
        return self.world.ejector.serves(name)

    def change(self, change: Callable[[ServiceRecord], ServiceRecord]) -> None:
        """Change the service's record in the journal."""
        name, fleet = self.operation.service, self.world.applied.fleet()

        def apply(journal: Journal) -> Journal:
            return settle(fleet, journal.with_service(name, change(journal.services[name])))

        self.world.store.update(apply)
        faults.point(f"{self.operation.verb} {self.operation.phase}: changed")
        self.world.wake()

    def enter(self, phase: str, work: W | None = None, *, owned: Iterable[str] = ()) -> None:
        """Go on to ``phase``, from which the operation resumes with ``work`` remembered.

        ``owned`` are the instances that it starts and stops itself from now on.
        """
        work = work or self.work
        self._save(replace(self.operation, phase=phase, note="", work=work, done=0, total=0, owned=tuple(owned)))
        fields = {"operation": self.operation.number, "verb": self.operation.verb, "service": self.operation.service}
        self.world.log("operation-phase", **fields, phase=phase)
        faults.point(f"{self.operation.verb} {phase}")

    def remember(self, work: W) -> None:
        """Keep ``work``, for a watcher that resumes here."""
        self._save(replace(self.operation, work=work))

    def began(self, what: str) -> float:
        """Return when ``what`` began, in monotonic seconds: now, unless it was asked before.

        Of what a watcher before this one began only the wall clock can tell, jumps and all.
        """
        clock, known = self.world.clock, self.work.began
        if what in known:
            return clock.monotonic() - max(0.0, clock.time() - datetime.fromisoformat(known[what]).timestamp())
        self.remember(replace(self.work, began={**known, what: clock.now()}))
        return clock.monotonic()

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Show how far the present phase is; not while another process has the journal."""
        self.operation = replace(self.operation, done=done, total=total, note=note)
        if self.world.clock.monotonic() - self._written > _PROGRESS:
            with suppress(Locked):
                self._save(self.operation)

    def note_begun(self) -> None:
        """Note that a watcher advances it: one that finds that noted later resumes it. Raises Cancelled."""
        self._save(self.operation)

    def begin_undo(self, reason: str) -> None:
        """From now on it is undone for ``reason``, and that cannot be cancelled."""
        self.undoing = True
        self._save(replace(self.operation, failed=reason, note="", done=0, total=0))
        faults.point(f"{self.operation.verb} undo")

    def _save(self, operation: Operation) -> None:
        def apply(journal: Journal) -> Journal:
            now = journal.operation(operation.number)
            if now is None or (now.cancelled and not self.undoing):
                raise Cancelled
            return journal.with_operation(replace(operation, cancelled=now.cancelled))

        self.operation = operation
        self.world.store.update(apply)
        self._written = self.world.clock.monotonic()

    async def pause(self, seconds: float) -> None:
        """Let the watcher work for a while; raises Cancelled when the operation was cancelled."""
        await self.world.pause(seconds)
        self.check()

    def check(self) -> None:
        """Raise Cancelled when an operator has cancelled the operation."""
        journal = self.world.store.read()
        now = journal.operation(self.operation.number) if journal else None
        if now is None or (now.cancelled and not self.undoing):
            raise Cancelled

    async def point(self, *, ready: Iterable[str] = ()) -> None:
        """Point the service's slots as they shall be now, in parts; ``ready`` were found to be so. Raises Cancelled.

        The table lock, which other processes hold for a moment, is waited for. What the kernel refuses is tried again;
        in the end raise SlotsRefused.
        """
        most, tries = max(self.world.plane.traits.slots_unnoticed, self.want().service.slots // _PARTS), 0
        while True:
            try:
                if not self.world.ejector.point(self.want(), ready=ready, most=most):
                    break
            except Locked as error:
                self.world.waits(self.operation, error)
                await self.pause(LOCKED)
            except PortfleetError as error:
                tries += 1
                if tries == TRIES:
                    raise SlotsRefused(error.message, hint=error.hint, code=error.code) from None
                self.world.tries_again(self.operation, error)
                await self.pause(AGAIN)
            else:
                faults.point(f"{self.operation.verb} {self.operation.phase}: some slots")
                await self.pause(_BREATH)
        self.pointed = self.world.clock.monotonic()

    def holding(self, names: Iterable[str]) -> list[str]:
        """Return which of ``names`` have slots, as they are when no other instance serves."""
        pointed = set(self.world.ejector.table(self.operation.service, anew=True))
        return [name for name in names if name in pointed]

    async def start(self, names: Iterable[str]) -> dict[str, str]:
        """Start instances and wait for them; return {name: why not} for those that did not become ready.

        One on another box is only waited for.
        """
        found, programs = tuple(names), self.programs()
        if not found:
            return {}
        seconds = self.want().service.start_timeout
        await self.world.in_thread(programs.start, [name for name in found if name in programs.desired.programs])
        async for _ in self.through(programs.waiting(found, seconds)):
            self.check()
        self._ready |= {name: pid for name, pid in programs.ready.items() if pid is not None}
        learning = partial(learn_from, programs, found, plane=self.world.plane, store=self.world.store)
        await self.world.in_thread(learning)
        if programs.failed and self.undoing:
            self.undone = Exit.TIMEOUT
        return programs.failed

    async def serve(self, names: Collection[str]) -> dict[str, str]:
        """Start instances, and give them their slots as soon as all are ready or the time is up.

        Return {name: why not} of those that did not become ready; each gets its slots when the watcher finds it ready.
        """
        failed = await self.start(names)
        await self.point(ready=set(names) - failed.keys())
        return failed

    async def live_on(self, names: Collection[str]) -> dict[str, str]:
        """Wait until ``names``, which were ready, have lived for ``min_ready``: one good connect is not health.

        Return {name: why} of those that have ended since, as soon as there is one.
        """
        seconds = self.want().service.min_ready or 0.0
        clock, before = self.world.clock, await self.world.daemons.pids() | self._ready
        local = [want.name for want in self.instances(names)]
        began = clock.monotonic()
        while (spent := clock.monotonic() - began) < seconds:
            self.progress(int(spent), int(seconds), f"whether {quantity(len(names), 'instance', 'lives')} on")
            await self.pause(_ALIVE)
            now = await self.world.daemons.pids()
            if ended := [name for name in local if name not in now or now[name] != before.get(name)]:
                why = self.programs().why_ended
                return {name: await self.world.in_thread(why, name, seconds) for name in ended}
        return {}

    async def unproven(self, names: Collection[str]) -> list[str]:
        """Return, in words, which of ``names`` could not be started, and why."""
        programs = [i.program for i in self.instances(names) if i.program is not None]
        found = await self.world.in_thread(self.world.prove, programs)
        return [f"{name}: {words}" for name, words in found.items()]

    def programs(self) -> Programs:
        """Return what starts and ends processes, as they are wanted now."""
        return self.world.programs(self.desired())

    async def through(self, waits: Iterator[float]) -> AsyncIterator[None]:
        """Go through ``waits``, which Programs gives; what the caller does at each of them comes before the wait."""
        while (seconds := await self.world.in_thread(next, waits, None)) is not None:
            yield
            await self.world.pause(seconds)

    async def connections(self, instances: Iterable[DesiredInstance]) -> dict[str, int]:
        """Return how many established connections each instance has; one without a process has none."""
        return await self.world.daemons.connections(self.want().service, instances)

    async def cannot_hand_off(self, senders: Iterable[DesiredInstance], receivers: Iterable[DesiredInstance]) -> str:
        """Return why connections of ``senders`` cannot go to ``receivers`` by hand-off; "" if they can."""
        mine, others = list(senders), list(receivers)
        heard = await self.world.daemons.hear([*mine, *others])
        return cannot_hand_off([i.name for i in mine], [i.name for i in others], heard)
