"""Whether an instance serves: one class for each kind of probe, and which of them an instance gets.

The command line carries them out in `observe`, the watcher in its prober; both take the exchanges from here. A new kind
is a class here, and a line in `exchanges` that says when it is used.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from portfleet.core.desired import DesiredInstance
from portfleet.core.model import Probe, Service
from portfleet.core.status import DaemonState, Status
from portfleet.daemons.answers import Refused, read_status
from portfleet.daemons.control import Ask, request
from portfleet.daemons.exchange import PROXY_LOCAL, Control, Exchange, Port, Verdict

_REQUESTS = {command: request(command) for command in ("state", "status")}


@dataclass(frozen=True)
class Target:
    """What to probe: the instance's address, where its control socket is if it has one (None: not to be asked), how."""

    name: str
    place: Port
    control: str | None
    probe: Probe


def target_of(service: Service, want: DesiredInstance) -> Target:
    """Return how an instance is probed; one on this box over the loopback address of a family that clients come by."""
    remote = want.rule.remote
    host = str(remote.address) if remote else "127.0.0.1" if 4 in want.families(service) else "::1"
    opening = PROXY_LOCAL if service.send_proxy else b""
    return Target(want.name, Port(host, want.rule.port, opening), want.control, service.probe)


def exchanges(
    target: Target, pid: int | None, *, commands: Sequence[str] = ("status",), spoke: bool = False, port: bool = True
) -> Iterator[Exchange]:
    """Yield what an instance with process ``pid`` is asked: each when the one before it has ended well.

    First its control socket, which it need not have unless that process ``spoke`` there earlier, by the first of
    ``commands`` that it knows, then its port, without ``port`` only if the config says what to ask there or nothing
    else was asked. One that is full by its own ``max_connections`` leaves connections in its backlog on purpose, so its
    word alone counts.
    """
    status = None
    for command in commands if target.control is not None and pid is not None else ():
        ask = AskReady(Control(str(target.control), pid), command, last=command == commands[-1], spoke=spoke)
        yield ask
        if (status := ask.answer) is not None or ask.absent:
            break
    if status is not None and status.full:
        return
    if target.probe.send is not None:
        yield Expect(target.place, target.probe.send.encode(), (target.probe.expect or "").encode())
    elif status is None and not spoke:
        yield Connect(target.place)
    elif status is None or port:
        yield Empty(target.place)


class AskReady(Ask[Status]):
    """Ask on the control socket for ``status`` or ``state``, and be content with a daemon that says it is ready.

    If no process listens there, it is a daemon without a control socket, which is well too, unless it ``spoke`` before
    and the socket is there yet;
    and so is one that refuses the command, if that is not the ``last`` there is.
    """

    def __init__(self, place: Control, command: str = "status", *, last: bool = True, spoke: bool = False) -> None:
        super().__init__(place, _REQUESTS[command], read_status)
        self.command = command
        self._last, self._spoke = last, spoke

    def unreachable(self, code: int) -> Verdict:
        verdict = super().unreachable(code)
        removed = code == errno.ENOENT  # a socket without a name; the process that has it is no less well
        return "" if self.absent and (removed or not self._spoke) else verdict

    def received(self, data: bytes) -> Verdict:
        verdict = super().received(data)
        if isinstance(self.failure, Refused) and not self._last:
            return ""
        if self.answer is None or self.answer.state is DaemonState.READY:
            return verdict
        return f"it says it is {self.answer.state}"


class Connect(Exchange):
    """A connection is enough. The kernel accepts for a hung daemon too, until its backlog is full."""

    def connected(self) -> Verdict:
        return ""


class Empty(Exchange):
    """An empty request: connect, end our side, and the daemon must end its side too.

    So its listener and its loop's way from accept to close are proven without a word that a handler would have to
    understand. For daemons of docs/control.md, which close a connection whose client has ended.
    """

    ends = True

    def received(self, data: bytes) -> Verdict:
        return None if data else ""


class Expect(Exchange):
    """Send something and wait for an answer that holds ``expected``, if that is not empty."""

    def __init__(self, place: Port, request: bytes, expected: bytes) -> None:
        super().__init__(place)
        self.request = request
        self._expected, self._got = expected, b""

    def sent(self) -> Verdict:
        return None if self._expected else ""

    def received(self, data: bytes) -> Verdict:
        self._got += data
        if self._expected in self._got:
            return ""
        return None if data else f"{self.place}: closed after {self._got[:80]!r}, expected {self._expected!r}"
