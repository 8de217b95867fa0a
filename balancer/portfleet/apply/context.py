"""What every verb works with, made when it is first needed: paths, config, journal, kernel, supervisord."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from portfleet.apply.configs import Configs
from portfleet.apply.observe import observe
from portfleet.apply.word import of_watcher
from portfleet.core.derive import carried, make_desired
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.errors import ConfigError, Exit, PortfleetError
from portfleet.core.journal import Journal, JournalError
from portfleet.core.model import Fleet, Service
from portfleet.core.observed import Observed
from portfleet.core.program import Program, metrics_program
from portfleet.daemons import instances
from portfleet.daemons.capability import Heard
from portfleet.linux.machine import unprivileged_user
from portfleet.store.journal import JournalStore
from portfleet.supervise.ini import started_ports, texts
from portfleet.supervise.supervisor import Supervisor

if TYPE_CHECKING:
    from portfleet.apply.execute import Executor
    from portfleet.apply.programs import Programs
    from portfleet.dataplane.interface import DataPlane


@dataclass
class Context(Configs):
    """One run of one verb. ``raised``: services that come up although they were taken down, as by the verb `up`.

    ``patience``: seconds to wait for the journal's lock, 0 in the watcher, whose loop must not block; ``answer``: for
    supervisord.
    """

    json: bool = False
    raised: Collection[str] = ()
    patience: float = 10.0
    answer: float = 30.0

    @cached_property
    def plane(self) -> DataPlane:
        """The data plane: the config's, but as long as the one that was applied serves this fleet, that one."""
        from portfleet.dataplane.choose import choose

        fleet, applied = self._config_or_applied(), self._applied_or_none()
        if applied is not None and _planes(applied) != _planes(fleet):
            serving = choose(self.paths, applied)
            if serving.home() == self.paths.identity:
                return serving
        return choose(self.paths, fleet)

    def refuse_other_plane(self) -> None:
        """Raise PortfleetError (exit 2) if the config asks for another data plane than the one that serves."""
        applied = self._applied_or_none()
        if applied is None or _planes(applied) == _planes(self.configured):
            return
        if self.plane.home() == self.paths.identity:
            raise PortfleetError(
                "fleet.dataplane or fleet.haproxy_processes has changed, and the fleet is up; nothing was changed",
                hint="portfleet down && portfleet up",
                code=Exit.USAGE,
            )

    def _config_or_applied(self) -> Fleet:
        """Return the config; if it cannot be read the one applied last, or an empty one: no data plane needs more."""
        try:
            return self.configured
        except ConfigError:
            return self._applied_or_none() or Fleet({})

    def _applied_or_none(self) -> Fleet | None:
        try:
            if self.paths.applied.read_bytes() == self.config_text:  # nearly always: to check a config takes long
                return self.configured
            return self.read_applied()
        except (OSError, ConfigError):
            return None

    @cached_property
    def store(self) -> JournalStore:
        return JournalStore(self.paths.journal, patience=self.patience)

    @cached_property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.paths.supervisor_socket, seconds=self.answer)

    def pids(self) -> dict[str, int]:
        """Return {instance: pid} of every instance that has a process; raises PortfleetError without supervisord."""
        return instances.running(self.supervisor, self.paths)

    def hear(self, wants: Iterable[DesiredInstance], pids: Mapping[str, int]) -> dict[str, Heard]:
        """Return what instances, whose processes are among ``pids``, say of themselves."""
        return instances.hear(wants, pids)

    def programs(self, desired: Desired) -> Programs:
        """Return what starts and ends the processes of ``desired``."""
        from portfleet.apply.programs import Programs  # not for `status`

        return Programs(desired, self.supervisor, self.paths, forget=self.plane.connections.forget_ended)

    def prove(self, programs: Iterable[Program]) -> dict[str, str]:
        """Return why programs could not be started by their users, by name; those that can be are left out."""
        from portfleet.apply.proof import faults_of  # not for `status`

        return faults_of(programs, self.paths)

    def put_right(self) -> list[str]:
        """Have supervisord's files be such that it can read them; say and return what was done about any."""
        said = self.programs(self.desired(self.fleet)).files.put_right()
        for words in said:
            self.say(words)
        return said

    def executor(self, desired: Desired, *, say: Callable[[str], None] = lambda _: None) -> Executor:
        """Return what does the steps of a plan for ``desired``."""
        from portfleet.apply.execute import Executor  # not for `status`

        return Executor(self.programs(desired), self.plane, self.store, say)

    def journal(self, fleet: Fleet) -> Journal:
        """Read the journal; a lost or damaged one is rebuilt from what runs, saying so."""
        try:
            found = self.store.read()
        except JournalError as error:
            return self._rebuilt(fleet, error)
        return self._rebuilt(fleet, None) if found is None else found

    def _rebuilt(self, fleet: Fleet, damage: JournalError | None) -> Journal:
        """Rebuild the journal from what runs. ``damage`` says why it cannot be read, None that there is none."""
        from portfleet.core.rebuild import rebuild

        try:
            state = self.plane.recover()
        except PortfleetError as error:
            if damage is None and error.code is Exit.KERNEL:
                return Journal()
            raise
        try:
            programs = self.supervisor.programs()
        except PortfleetError:
            programs = {}
        journal = rebuild(fleet, state, programs)
        if journal.services or damage:
            self.say(
                f"{self.paths.journal}: {damage.message if damage else 'the journal is lost'}; rebuilt from "
                f"{self.plane.traits.words} and supervisord (what operators had drained is forgotten)"
            )
        return journal

    def desired(
        self, fleet: Fleet, *, applying: bool = False, there: Mapping[str, bytes | None] | None = None
    ) -> Desired:
        """Return what shall be; ``applying`` a config that is not the one applied last, as it would be after that.

        ``there``: the `program_texts`, if they have been read.
        """
        journal = self.journal(fleet)
        if applying and self.paths.applied.exists():
            with suppress(ConfigError):  # a damaged one tells nothing of how colours were started
                journal = carried(fleet, journal, self.applied_fleet)
        desired = make_desired(fleet, journal.up(self.raised), self.paths).standing(self.ports(there))
        return replace(desired, own=self.plane.programs(fleet), metrics=self._metrics(fleet))

    def program_texts(self) -> dict[str, bytes | None]:
        """Return what is in the files that supervisord reads, by program; None for one that cannot be read."""
        return texts(self.paths.programs, "conf")

    def ports(self, there: Mapping[str, bytes | None] | None = None) -> dict[str, int]:
        """Return {instance: port} of the last start of each; ``there`` as for `desired`."""
        return started_ports(self.paths.programs, self.program_texts() if there is None else there)

    def _metrics(self, fleet: Fleet) -> Program | None:
        listen = fleet.metrics.listen
        user = fleet.metrics.user or unprivileged_user()
        return metrics_program(self.paths, sys.executable, listen, user) if listen is not None else None

    def observe(
        self,
        desired: Desired,
        *,
        probe: bool = True,
        by_word: bool = False,
        only: Collection[str] | None = None,
        there: Mapping[str, bytes | None] | None = None,
    ) -> Observed:
        """Look at what is, or ``only`` at some instances; raises PortfleetError (exit 5) if another home is served.

        ``by_word``: the watcher may be asked which instances are well, instead of all of them. ``there`` as for
        `desired`.
        """
        word = of_watcher(self.paths) if by_word and self.unchanged else None
        if probe and there is None:
            there = self.program_texts()
        observed = observe(
            desired,
            plane=self.plane,
            supervisor=self.supervisor,
            paths=self.paths,
            probe=probe,
            word=word,
            only=only,
            there=there,
        )
        home = observed.plane.home if only is None else self.plane.home()
        if home and home != desired.home:
            raise PortfleetError(
                f"{self.plane.traits.place} belongs to another home of portfleet",
                hint="one home per network namespace: use that one's --home, or take it down first",
                code=Exit.LOCKED,
            )
        return observed

    def service(self, fleet: Fleet, name: str) -> Service:
        """Return a service by name; raises PortfleetError (exit 2) naming those that are."""
        if name not in fleet.services:
            raise PortfleetError(
                f"there is no service {name!r}", hint=f"services are: {', '.join(fleet.services)}", code=Exit.USAGE
            )
        return fleet.services[name]

    def service_up(self, fleet: Fleet, name: str) -> DesiredService:
        """Return a service as it shall be; raises PortfleetError if there is none (exit 2) or it is down (exit 1)."""
        self.service(fleet, name)
        desired = self.desired(fleet)
        if down := desired.configured[name].down:
            raise PortfleetError(f"{name} is down by {down}", hint="portfleet up")
        return desired.services[name]


def _planes(fleet: Fleet) -> tuple[str, int]:
    """Return what of a fleet its data plane cannot change while it serves."""
    return fleet.dataplane, fleet.haproxy_processes if fleet.dataplane == "haproxy" else 0
