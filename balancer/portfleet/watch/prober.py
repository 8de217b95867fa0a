"""Active probes of many instances at little cost: no probe ever waits, none is a task of its own.

A tick begins the probes that are due and goes on with those that the kernel has something for (epoll(7)) or whose time
is up. What is asked, and what an answer means, is in `daemons.probe`; a probe that would find what the one before it
found goes a shorter way, from which whatever is not as it was leads back to the long one:

- A daemon that repeats its answer is asked on its control socket once (`repeats`); of others the connection is kept.
- Where a connection to the port is all that is asked, the kernel is asked for the listener that would take it.
- Where one success more would tell nothing, it takes no turns but those of its port (`resting`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping

from portfleet.core.status import DaemonState, Status
from portfleet.daemons.answers import ControlError, Refused
from portfleet.daemons.exchange import Control, Exchange, Verdict
from portfleet.daemons.probe import AskReady, Connect, Target, exchanges
from portfleet.daemons.run import Run
from portfleet.daemons.talk import Talk, begin
from portfleet.linux.sockdiag import Ends
from portfleet.linux.unix_socket import is_absent
from portfleet.watch.counting import Counting
from portfleet.watch.listeners import Listeners
from portfleet.watch.ports import Ports
from portfleet.watch.repeats import Repeats
from portfleet.watch.resting import Resting
from portfleet.watch.turns import Turns
from portfleet.watch.waits import UnderWay, Waits

#: Seconds between two looks at probes under way. Coarser costs less and delays a verdict by as much.
_STEP = 0.01
#: So many turns at a time, and of them so many that begin a conversation; in between the loop sees to deaths.
_TURNS, _AT_ONCE = 64, 16
#: The longest wait of a tick that has nothing to do, so that new targets are never far away.
_IDLE = 0.1
#: Probes that run a command, at a time: to start one takes this process a millisecond, and the machine more.
_COMMANDS = 4


class Prober:
    """Probes ``targets`` in turn and calls ``result(name, trouble, by_port)`` for each probe.

    ``trouble`` is "" for a success; ``by_port``: a connection to the instance's port failed, and nothing before it. It
    returns whether another success would change nothing; whoever knows better later calls `ask`.
    """

    def __init__(
        self,
        result: Callable[[str, str, bool], bool | None],
        clock: Callable[[], float],
        pid_of: Callable[[str], int | None],
        unexpected: Callable[[str, Exception], None] = lambda *_: None,
    ) -> None:
        """``pid_of`` gives an instance's process; until it is known only the port is asked.

        ``unexpected`` is told of an exception that no probe should raise, which fails that one probe.
        """
        self._result, self._clock, self._pid_of, self._unexpected = result, clock, pid_of, unexpected
        self._targets: dict[str, Target] = {}
        self._turns, self._called = Turns(), set[str]()
        self._probes: dict[str, UnderWay] = {}
        self._waits, self._ports, self._counting = Waits(), Ports(), Counting(clock, pid_of)
        #: Who listens on this machine, looked at for all instances at once.
        self.listeners, self._states = Listeners(clock), Repeats("state", clock, pid_of)
        self._resting = Resting(self._states, self.listeners, self._turns, self._ports, clock=clock, pid_of=pid_of)
        #: By instance: the connection to its control socket that is kept from one question to the next.
        self._kept: dict[str, socket.socket] = {}
        #: By instance: what it said last on its control socket; its process that said so, and on which command.
        self.said: dict[str, Status] = {}
        self._spoke: dict[str, tuple[int | None, str]] = {}
        #: By instance: the seconds of its last probe that succeeded, as finely as a tick looks.
        self.took: dict[str, float] = {}
        #: Connections over loopback that have ended; whoever forgets them empties it.
        self.ended: list[Ends] = []

    def aim(self, targets: Iterable[Target]) -> None:
        """Probe exactly ``targets`` from now on; new ones are spread over their interval."""
        wanted = {target.name: target for target in targets}
        for name in self._targets.keys() - wanted.keys():
            self._drop(name)
        self._turns.add({name: target.probe.interval for name, target in wanted.items()}, self._clock())
        known, self._targets = self._targets, wanted
        self._wake(name for name, target in wanted.items() if name in known and known[name].probe is not target.probe)

    def ask(self, name: str) -> None:
        """Probe one of the targets now, besides its turns."""
        self._called.add(name)

    def counted(self) -> Mapping[str, Status]:
        """Return what instances counted when they last said so, and have them say it for the next two minutes."""
        known = self._counting.wanted
        counted, lost = self._counting.read()
        untold = lost if known else self._targets
        self._resting.hurry(self._targets[name] for name in untold if name in self._targets)
        return counted

    def tick(self) -> float:
        """Begin what is due and go on with what is under way; return the seconds until the next tick is of use."""
        now = self._clock()
        for name, said in self._states.news():
            self._repeated(name, said)
        for name in self._states.overdue():
            self._wake([name])
            self._states.late(name)
            self.ask(name)
        self._wake(changed := self.listeners.changed())
        self._called.update(changed[:_AT_ONCE])
        self._counting.expire(now)
        most = len(self._probes) + _AT_ONCE
        for _ in range(_TURNS):
            if len(self._probes) >= most or (turn := self._turns.take(now)) is None:
                break
            name, due = turn
            if (target := self._targets.get(name)) is None:
                self._turns.drop(name)
                continue
            if target.command is not None and self._commands() >= _COMMANDS:
                self._turns.put(name, now + _STEP, target.probe.interval)  # its time begins when it does
                continue
            self._resting.turn(target, now)
            try:
                self._begin(target, now)
            finally:
                self._turns.put(name, self._resting.next(target, due, now), target.probe.interval)
        called, self._called = self._called, set()
        for name in called:
            if (target := self._targets.get(name)) is not None:
                self._wake([name])
                self._begin(target, now, ask=True)
        if self._probes:
            for name in self._waits.ready():
                if (probe := self._probes.get(name)) is not None:
                    self._go_on(name, probe, now)
            for name in [name for name, probe in self._probes.items() if now >= probe.deadline]:
                if (probe := self._probes.get(name)) is not None:  # a result may have dropped others
                    self._go_on(name, probe, now)
        if (left := self._turns.left(now)) <= 0:
            return 0.0
        left = min(left, self._states.left(now), self.listeners.left(now))
        return _STEP if self._probes else min(_IDLE, max(_STEP, left))

    def _report(self, name: str, trouble: str, *, by_port: bool = False, listens: bool = False) -> None:
        """Pass a result on; by what it means the instance rests from now on, or takes its turns."""
        content, target = self._result(name, trouble, by_port), self._targets.get(name)
        if not content or target is None or not self._resting.begin(target, listens=listens):
            self._wake([name])

    def _wake(self, names: Iterable[str]) -> None:
        """Have those of ``names`` that rest take turns again."""
        self._resting.end(self._targets[name] for name in names if name in self._targets)

    def _commands(self) -> int:
        return sum(probe.target.command is not None for probe in self._probes.values())

    def _begin(self, target: Target, now: float, *, ask: bool = False) -> None:
        """Begin a probe; ``ask``: what was said before does not count."""
        name = target.name
        self._called.discard(name)
        if name in self._probes:
            return
        pid = self._pid_of(name)
        spoke, command = self._spoke.get(name, (None, ""))
        known = pid is not None and spoke == pid
        well = known and not ask and command == "state" and self._well(target, pid, now)
        if known and not well and self._counting.ask(name, now):
            command = "status"
        left = self._ports.left(name)
        silent = not known and (target.control is None or pid is None or is_absent(target.control))
        if well and not target.asks and (left or ((said := self.said.get(name)) is not None and said.full)):
            self._ports.left_out(name)
            self._report(name, "")
            return
        if left and not target.asks and silent and self.listeners.takes(target.place):
            self._ports.left_out(name)
            self._report(name, "", listens=True)
            return
        if not known:
            self._let_go(name)
        commands = (command,) if known else ("state", "status")
        asked = None if silent or well else pid
        steps = exchanges(target, asked, commands=commands, spoke=known, port=not (known and left))
        probe = self._probes[name] = UnderWay(
            target, now + target.probe.timeout, now, steps, self._talk(name, next(steps))
        )
        self._go_on(name, probe, now)

    def _well(self, target: Target, pid: int | None, now: float) -> bool:
        """Return whether a daemon that speaks has repeated in time that it is ready; have it repeat that, if not."""
        name, interval, place = target.name, target.probe.interval, Control(str(target.control), pid)
        if (at := self._states.at(name, pid, interval)) is None:
            self._states.begin(name, place, interval)
            return False
        if now - at >= interval and not self._states.rests(name):
            self._states.late(name)
            return False
        self._counting.begin(name, place)
        return True

    def _repeated(self, name: str, said: Status | ControlError) -> None:
        """Take in a repeated answer that is another than before; whatever but ready is for a question to find out."""
        if isinstance(said, Refused):
            self._wake([name])
            self._states.refused(name)
        elif isinstance(said, Status) and said.state is DaemonState.READY:
            self.said[name] = said
            if name not in self._probes:
                self._let_go(name)
        else:
            self._wake([name])
            self._states.end(name)
            self.ask(name)

    def _talk(self, name: str, exchange: Exchange) -> Talk | Run:
        return begin(exchange, self._kept.get(name) if isinstance(exchange, AskReady) else None)

    def _go_on(self, name: str, probe: UnderWay, now: float) -> None:
        verdict = self._step(name, probe)
        if verdict is None and now >= probe.deadline:
            verdict = probe.talk.exchange.late(probe.target.probe.timeout)
        if verdict is not None:
            del self._probes[name]
            self._close(probe)
            by_port = not isinstance(probe.talk.exchange.place, Control)
            listens = isinstance(probe.talk.exchange, Connect)
            if verdict:
                self._let_go(name)
                self._wake([name])
                self._ports.leave(name, 0)
            else:
                self.took[name] = self._clock() - probe.began
                if by_port:
                    self._ports.went_through(name, rests=name in self._states or listens)
                else:
                    self._ports.left_out(name)
            self._report(name, verdict, by_port=bool(verdict) and by_port, listens=listens)

    def _step(self, name: str, probe: UnderWay) -> Verdict:
        try:
            verdict = probe.talk.step()
            if verdict is not None:
                verdict = self._after(name, probe, verdict)
            if verdict is None:
                self._await(name, probe)
        except Exception as error:  # noqa: BLE001 (a defect costs one instance's probe, never those of the others)
            self._unexpected(name, error)
            return f"its probe failed unexpectedly: {error!r}"
        return verdict

    def _await(self, name: str, probe: UnderWay) -> None:
        """Have epoll tell when the next step is of use."""
        awaited = probe.talk.awaited()
        if awaited != probe.awaited:
            probe.awaited = awaited
            self._waits.watch(name, *awaited)

    def _after(self, name: str, probe: UnderWay, verdict: str) -> Verdict:
        """Take in how an exchange ended, and begin the next, if there is one."""
        exchange = probe.talk.exchange
        if isinstance(exchange, AskReady) and exchange.answer is not None:
            self.said[name] = exchange.answer
            if exchange.command == "status":
                self._counting.heard(name, exchange.answer)
            pid = exchange.place.pid
            if self._spoke.get(name, (None, ""))[0] != pid:
                self._spoke[name] = (pid, exchange.command)
            if not verdict and isinstance(probe.talk, Talk) and (connection := probe.talk.leave()) is not None:
                self._kept[name] = connection
                self._waits.forget(connection.fileno())
                probe.awaited = (-1, 0)
        if verdict or (after := next(probe.steps, None)) is None:
            return verdict
        self._close(probe)
        probe.talk = self._talk(name, after)
        return probe.talk.step()

    def _close(self, probe: UnderWay) -> None:
        """End what a probe has open."""
        self._waits.forget(probe.awaited[0])
        probe.awaited = (-1, 0)
        if isinstance(probe.talk, Talk) and (ends := probe.talk.ends) is not None:
            self.ended.append(ends)
        probe.talk.close()

    def _let_go(self, name: str) -> None:
        """End the connection to a control socket that was kept."""
        if (kept := self._kept.pop(name, None)) is not None:
            kept.close()

    def _drop(self, name: str) -> None:
        if (probe := self._probes.pop(name, None)) is not None:
            self._close(probe)
        self._let_go(name)
        self._states.drop(name)
        for kept in (self._turns, self._counting, self._ports, self._resting):
            kept.drop(name)
        self.said.pop(name, None)
        self.took.pop(name, None)
