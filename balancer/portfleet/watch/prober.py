"""Active probes of many instances at little cost: no probe ever waits, none is a task of its own.

A tick begins the probes that are due and goes on with those under way; sockets are non-blocking and polled by their own
system calls (recv, SO_ERROR through connect), so that a probe costs no registration anywhere.

What is asked, and what an answer means, is in `daemons.probe`. A control socket's connection is kept from one probe to
the next.
"""

from __future__ import annotations

import heapq
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from portfleet.core.status import Status
from portfleet.daemons.exchange import Control, Exchange, Verdict
from portfleet.daemons.probe import AskReady, Target, exchanges
from portfleet.daemons.run import Run
from portfleet.daemons.talk import Talk, begin

#: Seconds between two looks at probes under way. Coarser costs less and delays a verdict by as much.
_STEP = 0.01
#: The longest wait of a tick that has nothing to do, so that new targets are never far away.
_IDLE = 0.1
#: Seconds between two questions for what an instance counts, and for how long it is asked after the last who wants it.
_COUNT, _WANTED = 3.5, 150.0
#: Of so many probes of an instance that answers well on its control socket, by the loop that serves its port, one goes
#: through the port too: the entry that it leaves in conntrack's table stays for two minutes.
_PORT_EVERY = 10
#: Probes that run a command, at a time: to start one takes this process a millisecond, and the machine more.
_COMMANDS = 4


@dataclass
class _Probe:
    """A probe under way: what is being asked, what comes after it, when it began and until when all of it may take."""

    target: Target
    deadline: float
    began: float
    steps: Iterator[Exchange]
    talk: Talk | Run


class Prober:
    """Probes ``targets`` in turn and calls ``result(name, trouble, by_port)`` for each probe.

    ``trouble`` is "" for a success; ``by_port``: a connection to the instance's port failed, and nothing before it.
    """

    def __init__(
        self,
        result: Callable[[str, str, bool], None],
        clock: Callable[[], float],
        pid_of: Callable[[str], int | None],
        unexpected: Callable[[str, Exception], None] = lambda *_: None,
    ) -> None:
        """``pid_of`` gives an instance's process; until it is known only the port is asked.

        ``unexpected`` is told of an exception that no probe should raise, which fails that one probe.
        """
        self._result, self._clock, self._pid_of, self._unexpected = result, clock, pid_of, unexpected
        self._targets: dict[str, Target] = {}
        self._queue: list[tuple[float, str]] = []
        self._queued: set[str] = set()
        self._probes: dict[str, _Probe] = {}
        self._kept: dict[str, socket.socket] = {}
        #: By instance: what it said last on its control socket; its process that said so, and on which command.
        self.said: dict[str, Status] = {}
        self._spoke: dict[str, tuple[int | None, str]] = {}
        #: By instance: what it counted when it was last asked, and when that was; until when it is to be asked.
        self.counted: dict[str, Status] = {}
        self._asked: dict[str, float] = {}
        self._count_until = 0.0
        #: By instance: the seconds of its last probe that succeeded, as finely as a tick looks.
        self.took: dict[str, float] = {}
        self._left: dict[str, int] = {}  # by instance: how many probes may leave out its port

    def aim(self, targets: Iterable[Target]) -> None:
        """Probe exactly ``targets`` from now on; new ones are spread over their interval."""
        wanted = {target.name: target for target in targets}
        for name in self._targets.keys() - wanted.keys():
            self._drop(name)
        now, fresh = self._clock(), [name for name in wanted if name not in self._queued]
        for number, name in enumerate(fresh):
            heapq.heappush(self._queue, (now + wanted[name].probe.interval * number / len(fresh), name))
        self._queued.update(fresh)
        self._targets = wanted

    def ask(self, name: str) -> None:
        """Probe one of the targets now, besides its turns."""
        if name in self._targets and name not in self._probes:
            self._probes[name] = self._begin(self._targets[name], self._clock())

    def count(self) -> None:
        """Have instances tell what they count, every few seconds for the next two minutes: ``counted``.

        That is ten times as much to write and to read as whether they are ready, so it is not always asked.
        """
        self._count_until = self._clock() + _WANTED

    def tick(self) -> float:
        """Begin what is due and go on with what is under way; return the seconds until the next tick is of use."""
        now = self._clock()
        while self._queue and self._queue[0][0] <= now:
            due, name = heapq.heappop(self._queue)
            target = self._targets.get(name)
            if target is None:
                self._queued.discard(name)
                continue
            if target.command is not None and self._commands() >= _COMMANDS:
                heapq.heappush(self._queue, (now + _STEP, name))  # its time begins when it does
                continue
            # Late ticks are not made up for: probing is per interval, not per catch-up.
            heapq.heappush(self._queue, (max(due + target.probe.interval, now + target.probe.interval / 2), name))
            if name not in self._probes:
                self._probes[name] = self._begin(target, now)
        for name, probe in list(self._probes.items()):
            if self._probes.get(name) is probe:  # a result may have dropped others
                self._go_on(name, probe, now)
        if self._probes or not self._queue:
            return _STEP if self._probes else _IDLE
        return min(_IDLE, max(_STEP, self._queue[0][0] - now))

    def _commands(self) -> int:
        return sum(probe.target.command is not None for probe in self._probes.values())

    def _begin(self, target: Target, now: float) -> _Probe:
        name, pid = target.name, self._pid_of(target.name)
        spoke, command = self._spoke.get(name, (None, ""))
        known = pid is not None and spoke == pid
        if known and now < self._count_until and now - self._asked.get(name, 0.0) >= _COUNT:
            command, self._asked[name] = "status", now
        commands = (command,) if known else ("state", "status")
        steps = exchanges(target, pid, commands=commands, spoke=known, port=not (known and self._left.get(name)))
        return _Probe(target, now + target.probe.timeout, now, steps, self._talk(name, next(steps)))

    def _talk(self, name: str, exchange: Exchange) -> Talk | Run:
        return begin(exchange, self._kept.pop(name, None) if isinstance(exchange, AskReady) else None)

    def _go_on(self, name: str, probe: _Probe, now: float) -> None:
        verdict = self._step(name, probe)
        if verdict is None and now >= probe.deadline:
            verdict = probe.talk.exchange.late(probe.target.probe.timeout)
        if verdict is not None:
            probe.talk.close()
            del self._probes[name]
            by_port = not isinstance(probe.talk.exchange.place, Control)
            if not verdict:
                self.took[name] = self._clock() - probe.began
            self._left[name] = 0 if verdict else _PORT_EVERY - 1 if by_port else max(0, self._left.get(name, 0) - 1)
            self._result(name, verdict, bool(verdict) and by_port)

    def _step(self, name: str, probe: _Probe) -> Verdict:
        try:
            verdict = probe.talk.step()
            return verdict if verdict is None else self._after(name, probe, verdict)
        except Exception as error:  # noqa: BLE001 (a defect costs one instance's probe, never those of the others)
            self._unexpected(name, error)
            return f"its probe failed unexpectedly: {error!r}"

    def _after(self, name: str, probe: _Probe, verdict: str) -> Verdict:
        """Take in how an exchange ended, and begin the next, if there is one."""
        exchange = probe.talk.exchange
        if isinstance(exchange, AskReady) and exchange.answer is not None:
            self._heard(name, exchange, exchange.answer)
            if not verdict and isinstance(probe.talk, Talk) and (connection := probe.talk.leave()) is not None:
                self._kept[name] = connection
        if verdict or (after := next(probe.steps, None)) is None:
            return verdict
        probe.talk.close()
        probe.talk = self._talk(name, after)
        return probe.talk.step()

    def _heard(self, name: str, exchange: AskReady, answer: Status) -> None:
        self.said[name] = answer
        if exchange.command == "status":
            self.counted[name] = answer
        pid = exchange.place.pid
        if self._spoke.get(name, (None, ""))[0] != pid:
            self._spoke[name] = (pid, exchange.command)

    def _drop(self, name: str) -> None:
        if (probe := self._probes.pop(name, None)) is not None:
            probe.talk.close()
        if (connection := self._kept.pop(name, None)) is not None:
            connection.close()
        for kept in (self.said, self.counted, self._asked, self.took, self._left):
            kept.pop(name, None)
