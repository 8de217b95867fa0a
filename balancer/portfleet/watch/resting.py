"""Instances that rest, as one success more would tell nothing.

Each repeats in time that it is ready, or has no control socket and the same listener as before. Nothing is done for
them but to read what they repeat and to look at all listeners at once; their next turn is that of their port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil

from portfleet.daemons.probe import Target
from portfleet.watch.listeners import Listeners
from portfleet.watch.ports import Ports
from portfleet.watch.repeats import LATE, Repeats
from portfleet.watch.turns import Turns

#: Seconds between two times at which the ports of those that rest are connected to, of many together.
_PORTS = 0.4


class Resting:
    """Has instances rest and take turns again."""

    def __init__(
        self, states: Repeats, listeners: Listeners, turns: Turns, ports: Ports, *, clock: Callable[[], float],
        pid_of: Callable[[str], int | None],
    ) -> None:  # fmt: skip
        self._listeners = listeners
        self._states, self._turns, self._ports, self._clock, self._pid_of = states, turns, ports, clock, pid_of
        #: By instance, when its port is to be connected to.
        self._ports_at: dict[str, float] = {}

    def begin(self, target: Target, *, listens: bool) -> bool:
        """Have an instance rest; False if it must take turns, as more is asked of it than can be seen at rest.

        ``listens``: that it takes connections is all that was looked at.
        """
        if target.asks or not (self._listeners.rest(target) if listens else self._states.rest(target.name)):
            return False
        now = self._clock()
        due = self._ports_at[target.name] = self.next(target, now, now)
        self._turns.put(target.name, due, target.probe.interval)
        return True

    def turn(self, target: Target, now: float) -> None:
        """Take in that it is an instance's turn: if it rests that is for its port, unless `hurry` has called it."""
        if self._rests(target.name):
            self._leave_port(target, now)

    def hurry(self, targets: Iterable[Target]) -> None:
        """Have it be the turn of those of ``targets`` that rest within an interval; they rest on."""
        self._spread([target for target in targets if self._states.rests(target.name)])

    def end(self, targets: Iterable[Target]) -> None:
        """Have those of ``targets`` that rest take turns again."""
        now = self._clock()
        woken = [one for one in targets if self._states.wake(one.name) or self._listeners.wake(one.name)]
        for target in woken:
            self._leave_port(target, now)
        self._spread(woken)

    def _spread(self, targets: Sequence[Target]) -> None:
        now = self._clock()
        for number, target in enumerate(targets, start=1):
            interval = target.probe.interval
            self._turns.put(target.name, now + interval * number / len(targets), interval)

    def _leave_port(self, target: Target, now: float) -> None:
        """Have probes leave out the port for as long as it was to be left out."""
        left = ceil((self._ports_at[target.name] - now) / target.probe.interval - 1e-6)
        self._ports.leave(target.name, max(0, left))

    def _rests(self, name: str) -> bool:
        return self._states.rests(name) or self._listeners.rests(name)

    def drop(self, name: str) -> None:
        """Forget an instance."""
        self._listeners.wake(name)
        self._ports_at.pop(name, None)

    def next(self, target: Target, due: float, now: float) -> float:
        """Return when a target is due again that was ``due``: late ticks are not made up for, nor is one early."""
        name, interval = target.name, target.probe.interval
        if self._rests(name):
            due = ceil((now + interval * (self._ports.left(name) + 1)) / _PORTS) * _PORTS
            known = self._ports_at.get(name, now)
            return min(due, known) if known > now else due  # what is asked meanwhile does not put it off
        at = self._states.at(name, self._pid_of(name), interval)
        again = due + interval if at is None else at + LATE * interval
        return max(again, now + interval / 2)
