"""Whether an instance serves: one class for each kind of probe, and which of them an instance gets.

The command line carries them out in `observe`, the watcher in its prober; both take the exchanges from here. A new kind
is a class here, and a line in `exchanges` that says when it is used.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from portfleet.core.desired import DesiredInstance
from portfleet.core.model import Service
from portfleet.core.placeholders import expand
from portfleet.core.policies import Probe
from portfleet.core.printable import printable
from portfleet.core.status import DaemonState, Status
from portfleet.core.value import value
from portfleet.daemons.answers import Refused, read_status
from portfleet.daemons.control import Ask, request
from portfleet.daemons.exchange import PROXY_LOCAL, Command, Control, Exchange, Port, Verdict

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r\n]")
#: Of an answer by HTTP, in bytes, within which its first line must end.
_LINE = 1024
#: By command, its line on a control socket.
REQUESTS = {command: request(command) for command in ("state", "status")}


@value
class Target:
    """What to probe: the instance's address, where its control socket is if it has one (None: not to be asked), how."""

    name: str
    place: Port
    control: str | None
    probe: Probe
    command: Command | None = None

    @property
    def asks(self) -> bool:
        """Return whether the config says what to ask."""
        return self.command is not None or self.probe.http is not None or self.probe.send is not None


def target_of(service: Service, want: DesiredInstance, programs: Path) -> Target:
    """Return how an instance is probed; one on this box over the loopback address of a family that clients come by.

    ``programs``: the folder of supervisord's files of programs.
    """
    remote = want.rule.remote
    host = str(remote.address) if remote else "127.0.0.1" if 4 in want.families(service) else "::1"
    opening = PROXY_LOCAL if service.send_proxy else b""
    command = _command(service, want, programs)
    return Target(want.name, Port(host, want.rule.port, opening), want.control, service.probe, command)


def _command(service: Service, want: DesiredInstance, programs: Path) -> Command | None:
    """Return the probe's command for an instance on this box, if it has one.

    Without PORTFLEET_CONTROL: it would be taken for one of the instance's processes. Secrets are those that the
    instance was started with: its environment file may hold others by now.
    """
    program = want.program
    if program is None or not service.probe.exec:
        return None
    words = tuple(expand(word, program.values) for word in service.probe.exec)
    environment = {name: value for name, value in program.environment.items() if name != "PORTFLEET_CONTROL"}
    kinds = ("conf", "adopted") if program.environment_file else ()
    files = tuple(programs / f"{want.name}.{kind}" for kind in kinds)
    return Command(words, environment, program.user, program.directory, files)


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
    if target.command is not None:
        yield Exec(target.command, target.probe.status or 0)
    elif target.probe.http is not None:
        yield Http(target.place, target.probe.http, target.probe.status)
    elif target.probe.send is not None:
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
        super().__init__(place, REQUESTS[command], read_status)
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


class Http(Exchange):
    """Ask for a path by HTTP/1.1 (RFC 9112) and look at the status of the answer; of its body nothing is read."""

    def __init__(self, place: Port, path: str, status: int | None) -> None:
        super().__init__(place)
        host = f"[{place.host}]" if ":" in place.host else place.host
        lines = (f"GET {path} HTTP/1.1", f"Host: {host}:{place.port}", "User-Agent: portfleet", "Connection: close")
        self.request = "".join(f"{line}\r\n" for line in (*lines, "")).encode()
        self._expected, self._got = status, b""

    def received(self, data: bytes) -> Verdict:
        self._got += data
        if data and b"\n" not in self._got and len(self._got) < _LINE:
            return None
        found = _STATUS_LINE.match(self._got)
        if found is None:
            return f"{self.place}: no answer by HTTP/1: {self._got[:80]!r}"
        status = int(found[1])
        well = 200 <= status < 400 if self._expected is None else status == self._expected
        return "" if well else f"{self.place}: HTTP status {status}, expected {self._expected or '200 to 399'}"


class Exec(Exchange):
    """Run a command and look at its exit status; the last line that it printed says why it is another."""

    def __init__(self, place: Command, status: int) -> None:
        super().__init__(place)
        self._expected = status

    def ended(self, status: int, output: bytes) -> Verdict:
        if status == self._expected:
            return ""
        lines = output.decode(errors="replace").split("\n")
        last = next((printable(line) for line in reversed(lines) if line.strip()), "")
        return f"{self.place}: exit status {status}, expected {self._expected}" + (f": {last}" if last else "")
