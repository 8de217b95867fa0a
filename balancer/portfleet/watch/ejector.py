"""Takes instances out of the kernel's slots and back in: the only part of the watcher that moves clients.

An ejection takes hold in two steps. First a detour: the dead instance's chain leads to a sibling, two rules instead of
a thousand slots (1–2 ms). Then its slots are dealt evenly to the others, the chain is set right again, and conntrack
entries that saw no reply are deleted, so that clients whose SYN met the dead instance are translated afresh. When many
die at once, all detours come before the first deal.

No file is written before the kernel was changed, and none that cannot be written stops a change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal

from portfleet.core.changes import Change, DataPlane, Detour, InstanceRule, SetInstance
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.observed import Out
from portfleet.core.paths import Paths
from portfleet.core.routing import turn
from portfleet.core.slots import Table
from portfleet.store import locks
from portfleet.store.clock import now
from portfleet.store.log import Log
from portfleet.store.out import read_out, write_out


class Ejector:
    """Points slots by who is out. ``pending`` are wanted instances without slots that have not been ready yet: new.

    ``latest`` gives what shall be as of the moment it is asked, under the table lock: no command that has returned by
    then is ever taken back. ``forget_half_open`` has the conntrack entries of a mark deleted that saw no reply; it
    must not wait for that.
    """

    def __init__(
        self, *, plane: DataPlane, paths: Paths, latest: Callable[[], Desired | None],
        forget_half_open: Callable[[int], None], log: Log,
    ) -> None:  # fmt: skip
        self._plane, self._paths, self._latest, self._log = plane, paths, latest, log
        self._forget_half_open = forget_half_open
        self.out = read_out(paths.out)
        self.pending: dict[str, Out] = {}
        #: The last table of each service that was seen or set, to put it back as it was after a foreign flush.
        self.tables: dict[str, Table] = {}
        self._detours: dict[str, InstanceRule] = {}
        self._half_open: dict[str, list[int]] = {}
        self._written: dict[str, Out] | None = None
        #: Called when commands have let in who was pending.
        self.let_in: Callable[[], None] = lambda: None

    def eject(self, want: DesiredService, instance: DesiredInstance, entry: Out) -> float:
        """Send new connections of ``instance`` elsewhere at once; gives the seconds that took. ``deal`` must follow."""
        began = time.monotonic()
        self.out[instance.name] = entry
        self.pending.pop(instance.name, None)
        self._half_open.setdefault(want.name, []).append(instance.rule.mark)
        with locks.table(self._paths.table_lock):
            now = self._now(want)
            sibling = self._sibling(now, instance.name) if now else None
            if sibling is not None and instance.name in self.tables.get(want.name, ()):
                self._plane.run((Detour(instance.name, sibling),))
                self._detours[instance.name] = instance.rule
        return time.monotonic() - began

    def deal(self, want: DesiredService, *, ready: Iterable[str] = ()) -> None:
        """Deal the slots of a service to those that serve, and end its detours; ``ready`` are pending no longer."""
        self._keep()
        with locks.table(self._paths.table_lock):
            now = self._now(want)  # first: whoever is new in it is pending from then on
            for name in ready:
                self.pending.pop(name, None)
            if now is not None:
                self._point(now)
            self._keep()  # still under the lock: who reads it next must not take the slots of those that were ready
        while marks := self._half_open.get(want.name):
            self._forget_half_open(marks.pop())

    def admit(self, want: DesiredService, instance: DesiredInstance) -> int:
        """Let ``instance`` take connections again; gives how many slots it has now."""
        with locks.table(self._paths.table_lock):
            now = self._now(want)
            self.pending.pop(instance.name, None)
            self.out.pop(instance.name, None)
            self._keep()
            if now is not None:
                self._point(now)
        return self.tables.get(want.name, ()).count(instance.name)

    def note(self, name: str, reason: str) -> None:
        """Say better why ``name`` is out; when it went out stays."""
        entry = self.out.get(name)
        if entry is not None and entry.reason != reason:
            self.out[name] = Out(entry.kind, entry.since, reason)
            self._keep()

    def settle(self, desired: Desired, *, new: Iterable[str]) -> None:
        """Forget what is out but not wanted any more, and take ``new``, nobody else, as pending."""
        wanted = {want.name for want in desired.instances() if want.takes}
        for name in self.out.keys() - wanted:
            del self.out[name]
        self.pending = {name: self.pending.get(name) or fresh("new", "not ready yet") for name in new}
        self._keep()
        self.tables = {name: table for name, table in self.tables.items() if name in desired.services}

    def warm_up(self, desired: Desired) -> None:
        """Have everything an ejection needs loaded before the first: imports and nft's cache cost it 15 ms."""
        for want in desired.services.values():
            names = [name for name in dict.fromkeys(self.table(want.name)) if name]
            if len(names) > 1:
                self._plane.check((Detour(names[0], names[1]),))
                return

    def table(self, service: str, *, anew: bool = False) -> Table:
        """Return the slots of a service as they are, read once; ``anew`` if a command may have changed them since."""
        if anew or service not in self.tables:
            found = self._plane.read_slots(service)
            if any(found) or service not in self.tables:  # after a foreign flush the last one is what counts
                self.tables[service] = found
        return self.tables[service]

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
            self.let_in()
        return frozenset(i.name for i in want.instances if not self.serves(i.name))

    def _now(self, want: DesiredService) -> DesiredService | None:
        """Return the service as it shall be now; None where nobody wants it any more."""
        desired = self._latest()
        return desired.services.get(want.name) if desired else want

    def _point(self, want: DesiredService) -> None:
        current = self._plane.read_slots(want.name)
        beside = self._plane.read_beside(want.rule)
        turned = turn(want, current, beside, out=self.without(want, current), probed_out=self._all_probed_out(want))
        ended = {i.name: self._detours[i.name] for i in want.instances if i.name in self._detours}
        changes: list[Change] = [SetInstance(rule) for rule in ended.values()]
        changes += turned.changes
        if changes:
            self._plane.run(tuple(changes))
        for name in ended:
            del self._detours[name]
        self.tables[want.name] = turned.table

    def _all_probed_out(self, want: DesiredService) -> bool:
        """Return whether nobody serves any more and nobody died: then the policy for an empty service counts."""
        serving = [i.name for i in want.instances if i.takes]
        return all(name in self.out and self.out[name].kind == "probe" for name in serving)

    def _sibling(self, want: DesiredService, name: str) -> str | None:
        """Return an instance that serves beside ``name``."""
        table = self.tables.get(want.name, ())
        serving = [i.name for i in want.instances if i.takes and i.name != name and self.serves(i.name)]
        return next((sibling for sibling in serving if sibling in table), None)

    def _keep(self) -> None:
        """Write the out-set down for the command line where it changed; a full disk is said, not obeyed."""
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
    """Return the entry of somebody who goes out now."""
    return Out(kind, now(), reason)
