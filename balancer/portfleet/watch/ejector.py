"""Takes instances out of the kernel's slots and back in: the only part of the watcher that moves clients.

An ejection takes hold in two steps. First the dead instance's new connections are diverted to a sibling, one small
change instead of a thousand slots. Then its slots are dealt evenly to the others, its rules are set right, and attempts
to connect that it did not answer begin anew elsewhere. When many die at once, all are diverted before the first slots
are dealt.

No file is written before the kernel was changed, and none that cannot be written stops a change. A detour waits for no
lock either: it changes nothing else, so that slots which another process points meanwhile, even at the dead, lead to
the sibling. All else needs the table lock, which is tried once: the loop never waits for it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Literal

from portfleet.apply.pointer import Pointer
from portfleet.core.changes import Divert, InstanceRule, SetInstance
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.durations import Durations
from portfleet.core.errors import PortfleetError
from portfleet.core.observed import Out
from portfleet.core.paths import Paths
from portfleet.core.slots import Table, count
from portfleet.dataplane.interface import DataPlane
from portfleet.store.clock import now
from portfleet.store.log import Log
from portfleet.store.out import read_out, write_out

#: Seconds after which another part of the slots is not waited for.
DEALT = 1.0


class Ejector:
    """Points slots by who is out. ``pending`` are wanted instances without slots that have not been ready yet: new.

    `point` and `admit` raise Locked, with nothing changed, while another process holds the table lock.
    ``latest`` gives what shall be as of the moment it is asked, under the table lock: no command that has returned by
    then is ever taken back. ``forget_unanswered`` has attempts to connect that an instance did not answer begin anew;
    it must not wait for that.
    """

    def __init__(
        self, *, plane: DataPlane, paths: Paths, latest: Callable[[], Desired | None],
        forget_unanswered: Callable[[InstanceRule], None], log: Log,
    ) -> None:  # fmt: skip
        self._plane, self._paths, self._latest, self._log = plane, paths, latest, log
        self._forget_unanswered = forget_unanswered
        self._pointer = Pointer(plane, paths.table_lock, patience=0)
        self.out = read_out(paths.out)
        self.pending: dict[str, Out] = {}
        #: The last table of each service that was seen or set, to put it back as it was after a foreign flush.
        self.tables: dict[str, Table] = {}
        self._diverted: set[str] = set()
        self._unanswered: dict[str, list[InstanceRule]] = {}
        self._written: dict[str, Out] | None = None
        self._warm = False
        #: When part of a service's slots was dealt, by service, as long as others are left.
        self._parts: dict[str, float] = {}
        #: How long transactions took that diverted an instance, and those that pointed slots, with reading them before.
        self.diverts, self.points = Durations(), Durations()
        #: Called when commands have let in who was pending.
        self.let_in: Callable[[], None] = lambda: None

    def eject(self, want: DesiredService, instance: DesiredInstance, entry: Out) -> float:
        """Send new connections of ``instance`` elsewhere at once; return the seconds it took. `point` must follow."""
        began = time.monotonic()
        self.out[instance.name] = entry
        self.pending.pop(instance.name, None)
        self._unanswered.setdefault(want.name, []).append(instance.rule)
        if (now := self._now(want)) is not None and instance.name in self.tables.get(want.name, ()):
            self._divert(now, instance.name)
        return time.monotonic() - began

    def lead_on(self, want: DesiredService, instance: DesiredInstance) -> bool:
        """Send new connections of an instance elsewhere that is not wanted and has slots; return whether it has any.

        As while an operation deals its slots in parts. `point` must follow.
        """
        if instance.name not in self.table(want.name, anew=True):
            return False
        self._unanswered.setdefault(want.name, []).append(instance.rule)
        self._divert(want, instance.name)
        return True

    def _divert(self, want: DesiredService, name: str) -> None:
        if (sibling := self._sibling(want, name)) is not None:
            asked = time.monotonic()
            self._plane.run((Divert(name, sibling),))
            self.diverts.add(time.monotonic() - asked)
            self._diverted.add(name)

    def point(self, want: DesiredService, *, ready: Iterable[str] = (), most: int | None = None) -> int:
        """Deal the slots of a service to those that serve, and end its diversions; ``ready`` are pending no longer.

        With ``most``, deal no more than so many. Return how many are left; diversions stay until none is.
        """
        left = 0
        self._keep()
        with self._pointer.hold():
            now = self._now(want)  # first: whoever is new in it is pending from then on
            self._tell_let_in([name for name in ready if self.pending.pop(name, None)])
            if now is not None:
                left = self._point(now, most=most)
            self._keep()  # still under the lock: who reads it next must not take the slots of those that were ready
        while not left and (rules := self._unanswered.get(want.name)):
            self._forget_unanswered(rules.pop())
        return left

    def admit(self, want: DesiredService, *names: str) -> Counter[str]:
        """Let instances of a service take connections again, by one change; return how many slots each has now."""
        with self._pointer.hold():
            now = self._now(want)
            for name in names:
                self.pending.pop(name, None)
                self.out.pop(name, None)
            self._keep()
            if now is not None:
                self._point(now, admitted=names)
        return count(self.tables.get(want.name, ()))

    def note(self, name: str, reason: str) -> None:
        """Say better why ``name`` is out; when it went out stays."""
        entry = self.out.get(name)
        if entry is not None and entry.reason != reason:
            self.out[name] = Out(entry.kind, entry.since, reason)
            self._keep()

    def settle(self, desired: Desired, *, new: Iterable[str]) -> None:
        """Forget what is out but not wanted any more, and take ``new`` alone as pending."""
        wanted = {want.name for want in desired.instances() if want.takes}
        for name in self.out.keys() - wanted:
            del self.out[name]
        before = self.pending
        self.pending = {name: before.get(name) or fresh("new", "not ready yet") for name in new}
        self._tell_let_in(before.keys() & wanted - self.pending.keys() - self.out.keys())
        self._keep()
        self.tables = {name: table for name, table in self.tables.items() if name in desired.services}

    def warm_up(self, desired: Desired) -> None:
        """Have everything an ejection needs loaded before the first, once: imports and caches cost it 15 ms.

        The kernel lets a trial wait for all readers of its rules (synchronize_rcu), 5 to 23 ms, and the loop with it.
        Rules that an earlier version has loaded may refuse it, which decides nothing.
        """
        for want in desired.services.values() if not self._warm else ():
            names = [name for name in dict.fromkeys(self.table(want.name)) if name]
            if len(names) > 1:
                with suppress(PortfleetError):
                    self._plane.check((Divert(names[0], names[1]),))
                self._warm = True
                return

    def table(self, service: str, *, anew: bool = False) -> Table:
        """Return the slots of a service as they are, read once; ``anew`` if a command may have changed them since."""
        if anew or service not in self.tables:
            found = self._plane.read_slots(service)
            if any(found) or service not in self.tables:  # after a foreign flush the last one is what counts
                self.tables[service] = found
        return self.tables[service]

    @property
    def deals(self) -> bool:
        """Return whether slots are being dealt in parts, so that some are not where they shall be yet."""
        return any(time.monotonic() - at < DEALT for at in self._parts.values())

    def serves(self, name: str) -> bool:
        """True for an instance that is neither ejected nor pending."""
        return name not in self.out and name not in self.pending

    def without(self, want: DesiredService, current: Table) -> frozenset[str]:
        """Return who is left out of a service that has ``current`` in the kernel: the ejected and the pending.

        A pending one with slots was found ready by a command, which must not be taken back: from now on it is probed.
        """
        if pointed := self.pending.keys() & set(current):
            for name in pointed:
                del self.pending[name]
            self._tell_let_in(pointed)
            self.let_in()
        return frozenset(i.name for i in want.instances if not self.serves(i.name))

    def _tell_let_in(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            self._log("ready", instance=name, reason="a command found it ready and gave it slots")

    def _now(self, want: DesiredService) -> DesiredService | None:
        """Return the service as it shall be now; None if it is no longer desired."""
        desired = self._latest()
        return desired.services.get(want.name) if desired else want

    def _point(self, want: DesiredService, *, admitted: Collection[str] = (), most: int | None = None) -> int:
        """Deal the slots; who was diverted or is ``admitted`` gets its rule of now, as its port may be another."""
        ended = {i.name: i.rule for i in want.instances if i.name in self._diverted or i.name in admitted}
        asked = time.monotonic()
        change, left = self._pointer.point(
            want,
            out=lambda slots: self.without(want, slots),
            probed_out=self._all_probed_out(want),
            before=[SetInstance(rule) for rule in ended.values()],
            most=most,
        )
        self.points.add(time.monotonic() - asked)
        if left:
            self._parts[want.name] = time.monotonic()
        else:
            self._parts.pop(want.name, None)
            self._diverted -= ended.keys()
        self.tables[want.name] = change.table
        return left

    def _all_probed_out(self, want: DesiredService) -> bool:
        """Return whether no instance serves any more and none died: then the policy for an empty service counts."""
        serving = [i.name for i in want.instances if i.takes]
        return all(name in self.out and self.out[name].kind == "probe" for name in serving)

    def _sibling(self, want: DesiredService, name: str) -> str | None:
        """Return an instance that serves beside ``name``; one whose slots are just being dealt if there is no other."""
        table = self.tables.get(want.name, ())
        there = [i for i in want.instances if i.name != name and i.name in table and self.serves(i.name)]
        there = [i for i in there if i.name not in self._diverted]
        return next((i.name for i in sorted(there, key=lambda i: not i.takes)), None)

    def write_again(self) -> None:
        """Write the out-set down, whose file was removed."""
        self._written = None
        self._keep()

    def _keep(self) -> None:
        """Write the out-set down for the command line if it changed; a full disk is said, not obeyed."""
        if self._written == (out := self.pending | self.out):
            return
        try:
            write_out(self._paths.out, out)
        except OSError as error:
            self._log.once("cannot-write", file=self._paths.out, reason=error.strerror)
        else:
            self._written = out
            self._log.over("cannot-write")


def fresh(kind: Literal["died", "probe", "new"], reason: str) -> Out:
    """Return the entry of an instance that goes out now."""
    return Out(kind, now(), reason)
