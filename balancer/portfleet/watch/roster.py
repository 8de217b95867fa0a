"""Who shall run: the members of the fleet by the applied config and the journal, and how each has been doing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from portfleet.apply.applied import Applied
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.errors import PortfleetError
from portfleet.core.paths import Paths
from portfleet.daemons.probe import Target, target_of
from portfleet.store import locks
from portfleet.watch.health import Health
from portfleet.watch.restarts import Backoff


@dataclass
class Member:
    """One instance that shall run: its desired state and how it has been doing. Times are monotonic seconds."""

    service: DesiredService
    want: DesiredInstance
    health: Health
    backoff: Backoff
    #: The folder of supervisord's files of programs.
    programs: Path
    #: An operation that runs starts and stops it itself.
    owned: bool = False
    #: One of its processes has answered on its control socket.
    spoke: bool = False
    #: Its probes are judged.
    probed: bool = False
    #: Since when its probes fail; None while they do not.
    hung_since: float | None = None
    #: Who else listens on its port, in words.
    beside: str = ""
    #: When its process was last seen to end, and when it began to serve after that.
    died_at: float | None = None
    served_at: float | None = None
    #: How often its process ended, and how often it was ejected, by kind (`Out`), since this watcher has known it.
    ends: int = 0
    ejected: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return self.want.name

    @property
    def local(self) -> bool:
        """Return whether it is a process on this box."""
        return self.want.program is not None

    @property
    def startable(self) -> bool:
        """Return whether the watcher may start it: it is not to be down, and no other process starts it now."""
        return self.want.startable and not self.owned

    @property
    def steady(self) -> bool:
        """Return whether it is well and its last probe has said so: no success would change anything."""
        return self.health.healthy and not self.health.streak and self.hung_since is None and not self.beside

    def judged(self, *, out: bool) -> None:
        """Have probes judge it from now on: one that is ``out`` by them has to answer before it is healthy."""
        if not self.probed:
            self.probed, self.health.healthy, self.health.streak = True, not out, 0

    def unprobed(self) -> None:
        """Forget what its probes told: it is not probed any more, so a recovery would go unnoticed."""
        self.probed, self.hung_since = False, None
        self.health.healthy, self.health.streak = True, 0

    def target(self) -> Target:
        """Return how to probe it."""
        return target_of(self.service.service, self.want, self.programs)


class Roster:
    """The members, read again where config or journal have changed; ``changed`` is called whenever they were."""

    def __init__(self, paths: Paths, applied: Applied) -> None:
        self._paths, self._applied = paths, applied
        self._random = Random()  # noqa: S311 (jitter, not a secret)
        self.changed: Callable[[], None] = lambda: None
        self.members: dict[str, Member] = {}
        #: The members that are processes on this box.
        self.local: frozenset[str] = frozenset()
        self.desired: Desired | None = None
        #: What ``changed`` has taken in; not what is desired after it raised: then the next look tries again.
        self._taken_in: Desired | None = None
        self.repair = True
        #: What is asked of each instance, and for whom it has changed with the last read: name, before, now.
        self._wanted: dict[str, str] = {}
        self.changes: list[tuple[str, str, str]] = []
        #: The command on events; None until the config is read.
        self.on_event: tuple[str, ...] | None = None
        #: The file of the page's token; None: the page is read-only.
        self.token_file: Path | None = None

    @property
    def config(self) -> tuple[int, int] | None:
        """The version of the config that the members are by (`atomic.version`)."""
        return self._applied.version

    def latest(self) -> Desired | None:
        """Return what shall be as of this moment: to be asked under the table lock by whoever is about to change slots.

        A command writes the journal first and points the slots then, under that lock. Going by an older journal would
        take its change back until the next look. What cannot be read is as it was; the next look says why.
        """
        with suppress(PortfleetError):
            self.reload()
        return self.desired

    def reload(self) -> None:
        """Read config and journal if they changed. Raises PortfleetError."""
        desired = self._applied.desired()
        if desired is self._taken_in:
            return
        fleet = self._applied.fleet()
        self.desired, self.repair, self.on_event = desired, fleet.drift == "repair", fleet.on_event
        token = fleet.page.token_file
        self.token_file = self._paths.config.parent / token if token else None
        before, self._wanted = self._wanted, {want.name: want.wanted for want in desired.instances()}
        changed = [name for name in before.keys() & self._wanted.keys() if before[name] != self._wanted[name]]
        self.changes = [(name, before[name], self._wanted[name]) for name in sorted(changed)]
        known, self.members = self.members, {}
        owned = {name for operation in desired.journal.operations for name in operation.owned}
        for service in desired.services.values():
            probe = service.service.probe
            for want in service.running:
                member = known.get(want.name)
                if member is None:
                    health, backoff = Health(probe.fall, probe.rise), Backoff(self._random)
                    member = Member(service, want, health, backoff, self._paths.programs)
                member.service, member.want, member.owned = service, want, want.name in owned
                member.health.fall, member.health.rise = probe.fall, probe.rise
                self.members[want.name] = member
        self.local = frozenset(name for name, member in self.members.items() if member.local)
        self.changed()
        self._taken_in = desired

    def busy(self, service: str) -> locks.Holder | None:
        """Say which operator's verb works on a service at the moment."""
        return locks.holder_of(self._paths.operation_lock(service))

    def work_on(self, member: Member) -> str:
        """Return whose work may be why a member ended; "" if none is known."""
        holder = self.busy(member.service.name)
        return f" while {holder.who} does: {holder.why}" if holder else ""

    def unsteady(self) -> list[str]:
        """Return the members that have ended soon after each of their last starts."""
        return [name for name, member in self.members.items() if member.backoff.unsteady]
