"""Active probes of many instances at little cost: no probe ever waits, none is a task of its own.

A tick begins the probes that are due and goes on with those that the kernel has something for (epoll(7)) or whose time
is up. What is asked, and what an answer means, is in `daemons.probe`; a probe that would find what the one before it
found goes a shorter way, from which whatever is not as it was leads back to the long one:

- A control socket's connection is kept, and an answer is read only if it is not the one that came before (`kept`).
- Where a connection to the port is all that is asked, the kernel is asked for the listener that would take it.
"""

from __future__ import annotations

import heapq
import select
from collections.abc import Callable, Iterable
from math import ceil
from zlib import crc32

from portfleet.core.status import Status
from portfleet.daemons.exchange import Control, Exchange, Port, Verdict
from portfleet.daemons.probe import AskReady, Target, exchanges
from portfleet.daemons.run import Run
from portfleet.daemons.talk import Talk, begin
from portfleet.linux.listening import LOOPBACK, Listening
from portfleet.linux.sockdiag import Ends
from portfleet.linux.unix_socket import is_absent
from portfleet.watch.kept import Kept
from portfleet.watch.waits import UnderWay, Waits

#: Seconds between two looks at probes under way. Coarser costs less and delays a verdict by as much.
_STEP = 0.01
#: Probes begin together, each so many seconds (for short intervals more often), for what this process is woken for
#: costs it as much as some probes do; and so many at a time, between which the loop sees to deaths.
_BEAT, _AT_ONCE = 0.04, 16
#: The longest wait of a tick that has nothing to do, so that new targets are never far away.
_IDLE = 0.1
#: Seconds between two questions for what an instance counts, and for how long it is asked after the last who wants it.
_COUNT, _WANTED = 3.5, 150.0
#: Of so many probes one goes through the port, if what else is asked has gone well: the loop behind the control socket
#: serves the port too, and a connection costs ten times as much as a look at the listener that would take it.
_PORT_EVERY = 10
#: Probes that run a command, at a time: to start one takes this process a millisecond, and the machine more.
_COMMANDS = 4
#: Without an edge for each answer, what is not asked for would be told of again and again.
_ANSWERS = select.EPOLLIN | select.EPOLLET


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
        self._called: set[str] = set()
        self._probes: dict[str, UnderWay] = {}
        self._waits, self._listening = Waits(), Listening()
        self._kept: dict[str, Kept] = {}
        self._asking: dict[str, Kept] = {}  # those of the kept that owe an answer
        #: By instance: what it said last on its control socket; its process that said so, and on which command.
        self.said: dict[str, Status] = {}
        self._spoke: dict[str, tuple[int | None, str]] = {}
        #: By instance: what it counted when it was last asked, and when that was; until when it is to be asked.
        self.counted: dict[str, Status] = {}
        self._asked: dict[str, float] = {}
        self._count_until = 0.0
        #: By instance: the seconds of its last probe that succeeded, as finely as a tick looks.
        self.took: dict[str, float] = {}
        #: Connections over loopback that have ended; whoever forgets them empties it.
        self.ended: list[Ends] = []
        self._left: dict[str, int] = {}  # by instance: how many probes may leave out its port

    def aim(self, targets: Iterable[Target]) -> None:
        """Probe exactly ``targets`` from now on; new ones are spread over their interval."""
        wanted = {target.name: target for target in targets}
        for name in self._targets.keys() - wanted.keys():
            self._drop(name)
        now, fresh = self._clock(), [name for name in wanted if name not in self._queued]
        for number, name in enumerate(fresh):
            interval = wanted[name].probe.interval
            heapq.heappush(self._queue, (_together(now + interval * number / len(fresh), interval), name))
        self._queued.update(fresh)
        self._targets = wanted

    def ask(self, name: str) -> None:
        """Probe one of the targets now, besides its turns."""
        self._called.add(name)

    def count(self) -> None:
        """Have instances tell what they count, every few seconds for the next two minutes: ``counted``.

        That is ten times as much to write and to read as whether they are ready, so it is not always asked.
        """
        self._count_until = self._clock() + _WANTED

    def tick(self) -> float:
        """Begin what is due and go on with what is under way; return the seconds until the next tick is of use."""
        now = self._clock()
        for _ in range(_AT_ONCE):
            if not self._queue or self._queue[0][0] > now:
                break
            due, name = self._queue[0]
            target = self._targets.get(name)
            if target is None:
                heapq.heappop(self._queue)
                self._queued.discard(name)
                continue
            if target.command is not None and self._commands() >= _COMMANDS:
                heapq.heapreplace(self._queue, (now + _STEP, name))  # its time begins when it does
                continue
            # Late ticks are not made up for: probing is per interval, not per catch-up.
            interval = target.probe.interval
            heapq.heapreplace(self._queue, (_together(max(due + interval, now + interval / 2), interval), name))
            self._begin(target, now)
        called, self._called = self._called, set()
        for name in called:
            if (target := self._targets.get(name)) is not None:
                self._begin(target, now)
        if self._probes or self._asking:
            for name in self._waits.ready():
                self._ready(name, now)
            for name in [name for name, kept in self._asking.items() if now >= kept.deadline]:
                if (kept := self._asking.get(name)) is not None:  # a result may have dropped others
                    self._hand_over(name, kept, b"", now)
            for name in [name for name, probe in self._probes.items() if now >= probe.deadline]:
                if (probe := self._probes.get(name)) is not None:
                    self._go_on(name, probe, now)
        left = self._queue[0][0] - now if self._queue else _IDLE
        if left <= 0:
            return 0.0
        return _STEP if self._probes or self._asking else min(_IDLE, max(_STEP, left))

    def _commands(self) -> int:
        return sum(probe.target.command is not None for probe in self._probes.values())

    def _begin(self, target: Target, now: float) -> None:
        name = target.name
        self._called.discard(name)
        if name in self._probes or name in self._asking:
            return
        pid = self._pid_of(name)
        spoke, command = self._spoke.get(name, (None, ""))
        known = pid is not None and spoke == pid
        if known and now < self._count_until and now - self._asked.get(name, 0.0) >= _COUNT:
            command, self._asked[name] = "status", now
        left = self._left.get(name)
        silent = not known and (target.control is None or pid is None or is_absent(target.control))
        if left and not target.asks:
            kept = self._kept.get(name)
            if known and kept is not None and kept.pid == pid and kept.ask(command, now, now + target.probe.timeout):
                self._asking[name] = kept
                return
            if silent and self._listening.takes(target.place.host, target.place.port):
                self._left[name] = left - 1
                self._result(name, "", False)
                return
        if not known:
            self._let_go(name)
        commands = (command,) if known else ("state", "status")
        steps = exchanges(target, None if silent else pid, commands=commands, spoke=known, port=not (known and left))
        probe = self._probes[name] = UnderWay(
            target, now + target.probe.timeout, now, steps, self._talk(name, next(steps))
        )
        self._go_on(name, probe, now)

    def _talk(self, name: str, exchange: Exchange) -> Talk | Run:
        kept = self._kept.get(name) if isinstance(exchange, AskReady) else None
        return begin(exchange, kept.connection if kept is not None else None)

    def _ready(self, name: str, now: float) -> None:
        """Go on with a probe that the kernel has something for."""
        if (kept := self._asking.get(name)) is not None:
            if (came := kept.answer()) is not None:
                if (status := kept.known(came)) is None:
                    self._hand_over(name, kept, came, now)
                else:
                    del self._asking[name]
                    self._heard(name, kept.command, status)
                    self._left[name] -= 1
                    self.took[name] = now - kept.began
                    self._result(name, "", False)
        elif (probe := self._probes.get(name)) is not None:
            self._go_on(name, probe, now)

    def _hand_over(self, name: str, kept: Kept, came: bytes, now: float) -> None:
        """Have a question go on the long way, which is asked already and of whose answer ``came`` is there."""
        del self._asking[name]
        target = self._targets[name]
        exchange = AskReady(Control(str(target.control), kept.pid), kept.command, spoke=True)
        talk = Talk(exchange, kept.connection, came=came)
        probe = self._probes[name] = UnderWay(target, kept.deadline, kept.began, iter(()), talk)
        self._go_on(name, probe, now)

    def _go_on(self, name: str, probe: UnderWay, now: float) -> None:
        verdict = self._step(name, probe)
        if verdict is None and now >= probe.deadline:
            verdict = probe.talk.exchange.late(probe.target.probe.timeout)
        if verdict is not None:
            del self._probes[name]
            if verdict:
                self._let_go(name)
            self._close(probe)
            by_port = not isinstance(probe.talk.exchange.place, Control)
            if not verdict:
                self.took[name] = self._clock() - probe.began
            self._left[name] = 0 if verdict else self._fresh(name) if by_port else max(0, self._left.get(name, 0) - 1)
            self._result(name, verdict, bool(verdict) and by_port)

    def _fresh(self, name: str) -> int:
        """Return how many probes may leave out the port from now on; the first time not as many for all: they go on."""
        return _PORT_EVERY - 1 if name in self._left else crc32(name.encode()) % _PORT_EVERY

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
            self._heard(name, exchange.command, exchange.answer)
            pid = exchange.place.pid
            if self._spoke.get(name, (None, ""))[0] != pid:
                self._spoke[name] = (pid, exchange.command)
            if not verdict and isinstance(probe.talk, Talk) and (connection := probe.talk.leave()) is not None:
                kept = self._kept.setdefault(name, Kept(connection, pid))
                kept.said[exchange.command] = exchange.got, exchange.answer
                self._waits.watch(name, connection.fileno(), _ANSWERS)
                probe.awaited = (-1, 0)
        if verdict or (after := next(probe.steps, None)) is None:
            return verdict
        self._close(probe)
        probe.talk = self._talk(name, after)
        return probe.talk.step()

    def _heard(self, name: str, command: str, answer: Status) -> None:
        self.said[name] = answer
        if command == "status":
            self.counted[name] = answer

    def _close(self, probe: UnderWay) -> None:
        """End what a probe has open."""
        self._waits.forget(probe.awaited[0])
        probe.awaited, place = (-1, 0), probe.talk.exchange.place
        own = probe.talk.own_port if isinstance(probe.talk, Talk) else None
        probe.talk.close()
        if own is not None and isinstance(place, Port) and (address := LOOPBACK.get(place.host)):
            self.ended.append(Ends(address, own, address, place.port))

    def _let_go(self, name: str) -> None:
        """End the connection to a control socket that was kept."""
        if (kept := self._kept.pop(name, None)) is not None:
            self._waits.forget(kept.connection.fileno())
            kept.connection.close()

    def _drop(self, name: str) -> None:
        self._asking.pop(name, None)
        self._let_go(name)
        if (probe := self._probes.pop(name, None)) is not None:
            self._close(probe)
        for kept in (self.said, self.counted, self._asked, self.took, self._left):
            kept.pop(name, None)


def _together(moment: float, interval: float) -> float:
    """Return when a probe is to begin that is due at ``moment``, with others."""
    beat = min(_BEAT, interval / 8)
    return ceil(moment / beat - 1e-6) * beat
