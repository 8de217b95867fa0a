"""Looks at what is: the kernel's table, supervisord's programs, listening sockets, the daemons themselves."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from portfleet.apply.claims import claims
from portfleet.apply.look import Look
from portfleet.apply.word import Word
from portfleet.core.changes import PlaneState
from portfleet.core.desired import Desired, DesiredService
from portfleet.core.errors import PortfleetError
from portfleet.core.model import parse_instance
from portfleet.core.observed import Observed, ObservedInstance
from portfleet.core.paths import Paths
from portfleet.core.program import METRICS, WATCHER
from portfleet.core.slots import Table
from portfleet.core.states import RUNNING, Presence
from portfleet.store import locks, retries
from portfleet.store.out import read_out
from portfleet.supervise.presence import is_suspended, presence_by, supervisor_pid
from portfleet.supervise.supervisor import ProgramInfo, Supervisor

if TYPE_CHECKING:
    from portfleet.dataplane.interface import DataPlane

#: supervisord is there, and says nothing.
_SILENT = (Presence.HUNG, Presence.SUSPENDED, Presence.UNREACHABLE)


def observe(
    desired: Desired,
    *,
    plane: DataPlane,
    supervisor: Supervisor,
    paths: Paths,
    probe: bool = True,
    word: Mapping[str, Word] | None = None,
    only: Collection[str] | None = None,
    there: Mapping[str, bytes | None] | None = None,
) -> Observed:
    """Look at everything that a plan or `status` needs.

    ``probe`` False leaves out the exchange through the ports; ``word``: what is taken from the watcher. ``only``:
    nothing but these instances is looked at, of those that are desired, and none is asked by its port. ``there``: what
    is in supervisord's files of programs, which are compared with what they are to be.
    """
    presence, programs = _ask(supervisor, paths)
    rules = plane.observe() if only is None else PlaneState()
    served = None
    if not probe and only is None:
        served = {name for table in rules.slots.values() for name in table if name}
    hung = presence in _SILENT
    look = Look(
        programs, paths, probe=probe, ports=desired.local_ports(), hung=hung, served=served, word=word,
        forget=plane.connections.forget_ended,
    )  # fmt: skip
    services = [_with(service, only) for service in desired.services.values()]
    instances = look.at((service, want) for service in services for want in service.instances)
    for name in programs if only is None else ():
        if name not in instances and parse_instance(name):
            instances[name] = look.at_surplus(name)
    for service in services:
        instances |= _elsewhere(service, instances, rules.slots.get(service.name, ()), plane, probed=probe)
    known = programs if presence is Presence.RUNNING else None
    watched = locks.held(paths.watch_lock)
    outdated, damaged = _files(desired, paths, known, there) if there is not None else (frozenset(), {})
    return Observed(
        plane=rules,
        supervisord=presence,
        instances=instances,
        outdated=outdated,
        damaged=damaged,
        strangers=look.strangers(desired),
        claims=_claims(desired, rules) if probe else (),
        out=read_out(paths.out) if watched else {},
        retries=retries.read(paths.retries) if watched else {},
        watcher=_runs(WATCHER, programs),
        own=plane.processes(),
        metrics=_runs(METRICS, programs) or METRICS in look.adopted,
        at=time.time(),
    )


def _with(service: DesiredService, only: Collection[str] | None) -> DesiredService:
    if only is None:
        return service
    return replace(service, instances=tuple(want for want in service.instances if want.name in only))


def _ask(supervisor: Supervisor, paths: Paths) -> tuple[Presence, dict[str, ProgramInfo]]:
    """Return whether supervisord answers, and what it says of its programs; one that is stopped is not waited for."""
    if is_suspended(supervisor_pid(paths)):
        return Presence.SUSPENDED, {}
    try:
        return Presence.RUNNING, supervisor.programs()
    except PortfleetError as error:
        return presence_by(error, paths), {}  # it may begin to shut down at any moment


def _runs(name: str, programs: Mapping[str, ProgramInfo]) -> bool:
    return name in programs and programs[name].state in RUNNING


def _claims(desired: Desired, rules: PlaneState) -> tuple[str, ...]:
    """Return who else serves what is not open yet."""
    wanted = [listen for want in desired.services.values() for listen in want.service.listen]
    closed = [listen for listen in wanted if listen not in rules.listens]
    return claims(closed) if closed else ()


def _elsewhere(
    service: DesiredService, instances: Mapping[str, ObservedInstance], slots: Table, plane: DataPlane, *, probed: bool
) -> dict[str, ObservedInstance]:
    """Return what is known here of a service's remote instances: their connections, by the data plane's word.

    Without a probe who shall serve and was never given slots has not answered the watcher's probes yet.
    """
    found = {}
    remote = [want for want in service.instances if want.rule.remote is not None]
    counts = plane.connections.count(want.rule for want in remote)
    for want in remote:
        seen = replace(instances[want.name], connections=counts[want.name])
        share = want.takes and want.instance.member not in service.moved
        if not probed and share and any(slots) and want.name not in slots:
            seen = replace(seen, ready=False, waiting="has not answered the watcher's probes yet")
        found[want.name] = seen
    return found


def _files(
    desired: Desired, paths: Paths, known: Mapping[str, ProgramInfo] | None, there: Mapping[str, bytes | None]
) -> tuple[frozenset[str], dict[str, str]]:
    """Return the programs that run otherwise than desired, if they are ``known``, and the damaged files with why."""
    from portfleet.apply.files import Files  # not for `status`: it costs a tenth of its imports

    files = Files(desired, paths)
    outdated = frozenset[str]()
    if known is not None:
        outdated = frozenset(name for name in desired.programs if files.outdated(name, known.get(name), there))
    return outdated, {str(path): why for path, why in files.damaged(there).items()}
