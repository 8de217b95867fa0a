"""What the watcher knows, for its socket: who is out for `status`, and everything for metrics and the page.

All of it lies in memory: no answer asks the kernel, supervisord or a daemon, so that one costs a millisecond at most.
That is also why instances are told some at a time (`_AT_ONCE`): an ejection waits for no longer than such an answer.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from portfleet import __version__
from portfleet.core.canary import seen
from portfleet.core.desired import Desired, DesiredService
from portfleet.core.durations import Durations
from portfleet.core.operations import Operation, Unreadable, Work
from portfleet.core.program import CONFIG_EXIT
from portfleet.core.slots import Table
from portfleet.core.states import State, state_of
from portfleet.core.status import Status
from portfleet.core.work.cutover import Cutover
from portfleet.store.clock import stamp
from portfleet.store.log import Log
from portfleet.supervise.supervisor import ProgramInfo
from portfleet.watch.deaths import Deaths
from portfleet.watch.ejector import Ejector
from portfleet.watch.guard_drops import GuardDrops
from portfleet.watch.healer import Healer
from portfleet.watch.judge import Judge
from portfleet.watch.limit_monitor import LimitMonitor
from portfleet.watch.processes import Processes
from portfleet.watch.retries import Retries
from portfleet.watch.roster import Member, Roster
from portfleet.watch.supervision import SUPERVISOR

#: A process's start is told as often as it is asked for.
_stamp = lru_cache(maxsize=4096)(stamp)
#: Instances told in one answer.
_AT_ONCE = 64
_BY_REQUEST = (State.DRAINING, State.DRAINED, State.MAINTENANCE)


@dataclass
class Snapshot:
    """The watcher's parts, asked for what they know. ``lag``: by how much the loop was late each time it was."""

    roster: Roster
    ejector: Ejector
    judge: Judge
    processes: Processes
    deaths: Deaths
    limits: LimitMonitor
    dropped: GuardDrops
    healer: Healer
    retries: Retries
    log: Log
    plane: str
    lag: Durations = field(default_factory=Durations)
    _began: float = field(default_factory=time.time)
    _slots: dict[str, tuple[Table, Counter[str | None]]] = field(default_factory=dict)

    def status(self) -> dict[str, Any]:
        """Return what the watcher knows and no other process, for `status`."""
        return {
            "looked": self.processes.looked,
            "out": {name: vars(out) for name, out in self.ejector.out.items()},
            "pending": sorted(self.ejector.pending),
            "kept": sorted(self.judge.kept),
            "adopted": sorted(self.processes.adopted),
            "ends": {member.name: member.ends for member in self.roster.members.values() if member.local},
            "warnings": [vars(warned) for warned in self.limits.warned.values()],
        }

    def fleet(self) -> dict[str, Any]:
        """Return the watcher itself, the data plane and the services."""
        room, desired = self.limits.room, self.roster.desired
        return {
            "at": time.time(),
            "began": self._began,
            "version": __version__,
            "data_plane": self.plane,
            "supervisord": self.deaths.pids.get(SUPERVISOR),
            "room": room and {"used": room.used, "limit": room.limit, "dropped": room.dropped},
            "drift": self.healer.drift,
            "healed": self.healer.healed,
            "loop_lag": self.lag.to_json(),
            "transactions": {
                "divert": self.ejector.diverts.to_json(),
                "point": self.ejector.points.to_json(),
                "repair": self.healer.took.to_json(),
            },
            "unexpected": sum(trouble.count for trouble in self.log.troubles.values()),
            "warnings": [vars(warned) for warned in self.limits.warned.values()],
            "takes_orders": self.roster.token_file is not None,
            "services": [self._service(want, desired) for want in desired.configured.values()] if desired else [],
        }

    def instances(self, after: object = 0) -> dict[str, Any]:
        """Return some instances, those from number ``after`` on, and the number of the next one, None at the end."""
        first = after if isinstance(after, int) and after >= 0 else 0
        members = list(self.roster.members.values())
        end = first + _AT_ONCE
        counted = self.judge.counted
        told = [self._instance(member, counted.get(member.name)) for member in members[first:end]]
        return {"instances": told, "next": end if end < len(members) else None}

    def well(self, after: object = 0) -> dict[str, Any]:
        """Return some instances that answered their last probe, as `apply.word` reads it, and the next one's number.

        Of each its process, and what it said of itself; by which config they were probed.
        """
        first = after if isinstance(after, int) and after >= 0 else 0
        members = list(self.roster.members.values())[first:]
        told = {member.name: self._well(member) for member in members[:_AT_ONCE] if self._is_well(member)}
        following = first + _AT_ONCE if len(members) > _AT_ONCE else None
        return {"version": __version__, "config": self.roster.config, "well": told, "next": following}

    def _is_well(self, member: Member) -> bool:
        name = member.name
        return member.steady and member.probed and name in self.judge.answered_in and self.ejector.serves(name)

    def _well(self, member: Member) -> dict[str, Any]:
        said = self.judge.said.get(member.name)
        told = said and (said.connections, said.max_connections, sorted(said.handoff))
        return {"pid": self.deaths.pids.get(member.name), "said": told}

    def _service(self, want: DesiredService, desired: Desired) -> dict[str, Any]:
        running = desired.journal.running(want.name)
        return {
            "name": want.name,
            "live": want.live,
            "release": want.release,
            "listen": [str(listen) for listen in want.service.listen],
            "slots": want.service.slots,
            "down": want.down or None,
            "canary": want.canary,
            "colours": {
                colour: {"release": ran.release, "since": ran.since, "keep_until": ran.keep_until}
                for colour, ran in want.record.colours.items()
            },
            "operation": running and _operation(running),
        }

    def _instance(self, member: Member, counted: Status | None) -> dict[str, Any]:
        name, want, status = member.name, member.want, self.judge.said.get(member.name)
        out, pid, info = self.ejector.out.get(name), self.deaths.pids.get(name), self.processes.programs.get(name)
        slots = self._share(member)
        state = self._state(member, info, pid, slots, status)
        asked = member.service.record.asked.get(name) if state in _BY_REQUEST else None
        told = out or asked
        remote, serving = want.rule.remote, want.takes and self.ejector.serves(name)
        return {
            "name": name,
            "service": member.service.name,
            "colour": want.instance.colour,
            "state": state,
            "wanted": want.wanted,
            "since": told.since if told else _stamp(info.started) if info and info.started else None,
            "why": out.reason if out else member.health.reason if name in self.judge.kept else None,
            "serving": serving,
            "kept": name in self.judge.kept,
            "pid": pid,
            "port": want.rule.port,
            "remote": str(remote.address) if remote else None,
            "slots": slots,
            "probe": self.judge.answered_in.get(name),
            "ends": member.ends,
            "ejected": {"died": member.ejected["died"], "probe": member.ejected["probe"]},
            "dropped": self.dropped.counts.get(name) if serving else None,
            "said": status and _said(status, counted or status),
        }

    def _share(self, member: Member) -> int:
        service = member.service.name
        table = self.ejector.tables.get(service, ())
        known = self._slots.get(service)
        if known is None or known[0] is not table:  # counted once for each table: 4,096 slots take 0.1 ms
            known = self._slots[service] = (table, Counter(table))
        return known[1][member.name]

    def _state(
        self, member: Member, info: ProgramInfo | None, pid: int | None, slots: int, status: Status | None
    ) -> State:
        """Return the state; of a process that has just ended supervisord's word is older than the pidfd's."""
        name, program = member.name, info.state if info else None
        if pid is not None and program != "STOPPING":
            program = "RUNNING"
        elif pid is None and program == "RUNNING":
            program = "EXITED"
        broken = info is not None and program == "EXITED" and info.exit_status == CONFIG_EXIT
        return state_of(
            wanted=member.want.wanted,
            program=program,
            ready=self.ejector.serves(name),
            fault="it says that its config is broken" if broken else None,
            slots=slots,
            connections=status.connections if status else 0,
            ejected=name in self.ejector.out,
            looping=name in self.retries.known,
            remote=not member.local,
        )


def _said(status: Status, counted: Status) -> dict[str, Any]:
    """Return what a daemon said: of its connections at its last probe, of what it counts some seconds ago."""
    return {
        "connections": status.connections,
        "max_connections": status.max_connections,
        "accepted": counted.accepted,
        "requests": counted.requests,
        "errors": counted.errors,
        "bounds": counted.bounds,
        "counts": counted.counts,
    }


def _operation(running: Operation) -> dict[str, Any]:
    names = ("number", "verb", "words", "who", "since", "phase", "done", "total", "note", "cancelled", "failed")
    return {name: getattr(running, name) for name in names} | {"canary": _canary(running.work)}


def _canary(work: Work | Unreadable) -> dict[str, Any] | None:
    """Return the canary's step: its colour and share, and the requests it had counted at the begin and must see."""
    if not isinstance(work, Cutover) or work.canary is None or work.canary_from is None:
        return None
    start = work.canary_from
    counted = seen(start.canary.counters())
    return {"colour": work.colour, "percent": start.percent, "from": counted, "needed": work.canary.min_requests}
