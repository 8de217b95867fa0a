"""One look at the machine: processes, listening sockets, what daemons say, connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import cached_property

from portfleet.apply.word import Word
from portfleet.core.desired import Desired, DesiredInstance, DesiredService
from portfleet.core.observed import ObservedInstance
from portfleet.core.paths import Paths
from portfleet.core.printable import printable
from portfleet.core.program import CONFIG_EXIT
from portfleet.core.states import UP
from portfleet.daemons.exchange import Exchange
from portfleet.daemons.listeners import listening_fault, own_listeners
from portfleet.daemons.probe import AskReady, Target, exchanges, target_of
from portfleet.daemons.talk import carry_out
from portfleet.linux import processes, sockdiag
from portfleet.linux.established import Established
from portfleet.linux.sockdiag import Ends, Listener
from portfleet.supervise import adopted
from portfleet.supervise.exit_report import Ended, last_exit, last_lines
from portfleet.supervise.members import Members, in_background
from portfleet.supervise.presence import supervisor_pid
from portfleet.supervise.supervisor import ProgramInfo

#: How often, and how many seconds apart, connections of a program that is to be stopped are looked at again.
_LOOKS, _MOMENT = 5, 0.05


class Look:
    """One look at the machine: sockets are listed once and shared by all instances.

    ``ports``: the instances' by port; ``hung``: supervisord says nothing of its programs, and has not lost them for
    that. Without ``probe`` only those are asked that have none of the slots (``served`` are those with some): the
    watcher has found the others well, and one that loads its data listens as they do. Those for which there is the
    watcher's ``word`` are not asked at all. ``forget`` is told of the connections that were made to instances' ports.
    """

    def __init__(
        self, programs: dict[str, ProgramInfo], paths: Paths, *, probe: bool, ports: Mapping[int, str] | None = None,
        hung: bool = False, served: Collection[str] | None = None, word: Mapping[str, Word] | None = None,
        forget: Callable[[Iterable[Ends]], None] | None = None,
    ) -> None:  # fmt: skip
        self._served, self._word, self._forget = served, word or {}, forget
        self._ports = ports or {}
        self._programs, self._paths, self._probe, self._hung = programs, paths, probe, hung
        self._listeners = sockdiag.listeners()
        self._by_port: dict[int, list[Listener]] = {}
        for listener in self._listeners:
            self._by_port.setdefault(listener.port, []).append(listener)
        #: The noted processes that run, by program.
        self.adopted = adopted.alive(paths, {name: info.pid for name, info in programs.items()})
        self._established = Established()

    @cached_property
    def _members(self) -> Members:
        leaders = {name: info.pid for name, info in self._programs.items() if info.pid is not None}
        supervisor = supervisor_pid(self._paths)
        return adopted.members(self._paths, leaders, supervisor=supervisor, ports=self._ports)

    def at(self, wanted: Iterable[tuple[DesiredService, DesiredInstance]]) -> dict[str, ObservedInstance]:
        """Look at wanted instances, side by side: those that hang take no longer than one of them."""
        wanted = list(wanted)
        seen = {want.name: self._process(want.name) for _, want in wanted}
        known = {w.name: found for s, w in wanted if (found := self._by_word(s, w, seen[w.name])) is not None}
        return known | self._asked([(s, w) for s, w in wanted if w.name not in known], seen)

    def _by_word(
        self, service: DesiredService, want: DesiredInstance, seen: ObservedInstance
    ) -> ObservedInstance | None:
        """Return an instance for whose process there is the watcher's word, if it listens as it must."""
        word = self._word.get(want.name)
        if word is None or seen.pid is None or word.pid != seen.pid or seen.program not in UP:
            return None
        families = want.families(service.service)
        if any(listening_fault(want.rule.port, families, self._at_port(want), inside=want.inside)):
            return None
        count = word.said.connections if word.said is not None else self._count(service, want, word.pid)
        return replace(seen, ready=True, connections=count, status=word.said)

    def _asked(
        self, wanted: list[tuple[DesiredService, DesiredInstance]], seen: Mapping[str, ObservedInstance]
    ) -> dict[str, ObservedInstance]:
        targets = {
            want.name: target_of(service.service, want, self._paths.programs)
            for service, want in wanted
            if want.rule.remote is not None or seen[want.name].pid is not None
        }
        steps = {name: exchanges(target, seen[name].pid) for name, target in targets.items()}
        first = {name: next(one) for name, one in steps.items()}
        asked = {name: one for name, one in first.items() if isinstance(one, AskReady)}
        troubles = self._carry_out(asked, targets)
        unsaid = [w for _, w in wanted if w.name in targets and (w.name not in asked or asked[w.name].answer is None)]
        self._established = Established({want.rule.port for want in unsaid})
        found = {
            w.name: self._unprobed(s, w, seen[w.name], asked.get(w.name), troubles.get(w.name, "")) for s, w in wanted
        }
        ready = [w.name for s, w in wanted if w.name in targets and found[w.name].ready and self._asks(s, w)]
        ports = {name: one for name in ready if (one := next(steps[name], None) if name in asked else first[name])}
        for name, trouble in self._carry_out(ports, targets).items():
            if trouble:
                found[name] = replace(found[name], ready=False, waiting=trouble)
        return found

    def _carry_out(self, asked: Mapping[str, Exchange], targets: Mapping[str, Target]) -> dict[str, str]:
        """Carry out exchanges with instances side by side; return how each ended."""
        ended = list[Ends]()
        found = carry_out([(one, targets[name].probe.timeout) for name, one in asked.items()], ended=ended)
        if ended and self._forget is not None:
            self._forget(ended)
        return dict(zip(asked, found, strict=True))

    def _asks(self, service: DesiredService, want: DesiredInstance) -> bool:
        """Return whether an instance that listens is asked whether it answers; a command is run for few only."""
        if self._probe or self._served is None:
            return self._probe
        probe = service.service.probe
        return want.name not in self._served and probe.asks and (want.takes or not probe.exec)

    def _unprobed(
        self, service: DesiredService, want: DesiredInstance, seen: ObservedInstance, ask: AskReady | None, trouble: str
    ) -> ObservedInstance:
        """Return what is known of an instance whose port was not asked yet, which is of use if it seems to be ready.

        ``seen`` is its process, ``ask`` what that was asked on its control socket, if it has one, and the ``trouble``.
        """
        if want.rule.remote is not None:
            return ObservedInstance(ready=True, connections=None)
        if want.program is None:
            return seen
        if (pid := seen.pid) is None:
            return self._without_process(want, seen)
        status = ask.answer if ask is not None else None
        count = status.connections if status is not None else self._count(service, want, pid)
        seen = replace(seen, connections=count, waiting=trouble, status=status)
        if trouble:
            return seen
        own = self._own(want, pid)
        if others := [listener for listener in self._at_port(want) if listener not in own]:
            words, mine = self._other(want, others[0])
            return replace(seen, waiting=words) if mine else replace(seen, fault=words)
        fault, temporary = listening_fault(want.rule.port, want.families(service.service), own, inside=want.inside)
        if fault:
            return replace(seen, waiting=fault) if temporary else replace(seen, fault=fault)
        return replace(seen, ready=seen.program in UP)

    def _at_port(self, want: DesiredInstance) -> list[Listener]:
        return self._by_port.get(want.rule.port, [])

    def _own(self, want: DesiredInstance, pid: int) -> list[Listener]:
        """Return the listeners on an instance's port that are of its present start, whose first process is ``pid``."""
        there, own = self._at_port(want), own_listeners(pid, self._at_port(want))
        if len(own) == len(there):  # as always, but for processes that have left the tree
            return own
        left = self._members.left(want.name, pid)
        pids = [one.pid for one in self._members.of(want.name) if one not in left]
        mine = processes.owned(pids, {listener.inode for listener in there})
        return [listener for listener in there if listener in own or listener.inode in mine]

    def _other(self, want: DesiredInstance, listener: Listener) -> tuple[str, bool]:
        """Return who listens on an instance's port beside its present start, and whether that is its own."""
        pids = [one.pid for one in self._members.of(want.name)]
        if listener.inode in processes.owned(pids, {listener.inode}):  # or of a start since supervisord was asked
            owner = processes.owner_of(listener.inode, pids)
            return f"{owner}, left by an earlier start of it, listens on its port {listener.port} yet", True
        return f"{processes.owner_of(listener.inode)} listens on its port {listener.port}", False

    def _without_process(self, want: DesiredInstance, seen: ObservedInstance) -> ObservedInstance:
        """Return an instance that has no process of supervisord's; what listens on its port all the same is told."""
        there = self._at_port(want)
        if not there:
            return seen
        words, mine = self._other(want, there[0])
        if not mine:
            return replace(seen, fault=words)
        if last_exit(self._paths, want.name) == Ended(0):
            return replace(seen, fault=in_background(processes.owner_of(there[0].inode), want.rule.port), waiting="")
        return replace(seen, waiting=words)

    def _count(self, service: DesiredService, want: DesiredInstance, pid: int) -> int:
        return self._established.of(pid, want.rule.port, service.service.ports)

    def at_surplus(self, name: str) -> ObservedInstance:
        """Look at a program that is not desired any more, and for a moment: a probe under way is not a client.

        Nothing but its name is known: its connections are those that its processes have of the ports they listen on.
        """
        seen = self._process(name)
        if seen.pid is None:
            return seen
        pids = list(processes.tree(seen.pid))
        mine = processes.owned(pids, {listener.inode for listener in self._listeners})
        ports = {listener.port for listener in self._listeners if listener.inode in mine}
        connections = self._established.owned(seen.pid, ports.__contains__)
        for _ in range(_LOOKS if self._probe else 0):
            if not connections:
                break
            time.sleep(_MOMENT)
            connections = min(connections, Established().owned(seen.pid, ports.__contains__))
        return replace(seen, connections=connections)

    def strangers(self, desired: Desired) -> dict[str, str]:
        """Give, by instance, who else listens on the port of an instance that is to be started."""
        found: dict[str, str] = {}
        for want in desired.instances():
            there = [self._by_port[port][-1] for port in want.ports if port in self._by_port]
            if not there or self._process(want.name).pid:
                continue
            for words, mine in (self._other(want, listener) for listener in there):
                if not mine:
                    found[want.name] = words
        return found

    def holder(self, port: int) -> str | None:
        """Return who listens on ``port``, in words; None if it is free."""
        return next((processes.owner_of(one.inode) for one in self._by_port.get(port, ())), None)

    def beside(self, wanted: Iterable[DesiredInstance]) -> dict[str, str]:
        """Return, by instance that has a process, who listens on its port without being of it, as another's fault."""
        found: dict[str, str] = {}
        for want in wanted:
            if want.program is None or (pid := self._process(want.name).pid) is None:
                continue
            own = self._own(want, pid)
            for words, mine in (self._other(want, one) for one in self._at_port(want) if one not in own):
                if not mine:
                    found[want.name] = words
        return found

    def _process(self, name: str) -> ObservedInstance:
        info = self._programs.get(name)
        if (info is None or info.pid is None) and name in self.adopted:
            return ObservedInstance("RUNNING", self.adopted[name], adopted=not self._hung)
        if info is None:
            return ObservedInstance()
        fault, waiting = None, ""
        if info.state == "FATAL":  # supervisord keeps no exit status of a process that ended before startsecs
            words = last_lines(self._paths.log_of(name), 1)
            said = f"; its last words: {words[0]}" if words else f": {printable(info.error)}"
            fault = f"ended within a second of each start{said}"
        elif info.state == "EXITED":
            waiting = f"ended with exit code {info.exit_status}"
            if info.exit_status == CONFIG_EXIT:  # any other end is followed by a restart within moments
                fault, waiting = f"{waiting}, as daemons do for a broken config", ""
        since = max(info.started, info.stopped if info.pid is None else 0)
        return ObservedInstance(info.state, info.pid, since, info.exit_status, fault=fault, waiting=waiting)
