"""supervisord: asked and told through XML-RPC on its unix socket.

Facts: `update` after any change in a group restarts the whole group, so every instance is a program of its own, added
and removed one by one. ``reloadConfig`` only reads the files again and says what differs from what runs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from portfleet.core.errors import PortfleetError
from portfleet.core.value import value
from portfleet.linux.patience import Patience
from portfleet.supervise import rpc

#: Fault codes of supervisor/xmlrpc.py. While it shuts down, every call gets SHUTDOWN_STATE, getState too.
UNKNOWN_METHOD, SHUTDOWN_STATE = 1, 6
NO_FILE, NOT_EXECUTABLE = 20, 21
BAD_NAME, SPAWN_ERROR, ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED, STILL_RUNNING = 10, 50, 60, 70, 90, 91
#: Calls that are sent at a time (`inside.each`).
_AT_ONCE = 256


@value
class ProgramInfo:
    """One program as supervisord sees it. ``state`` is in its capitals; times are Unix seconds (0: never).

    ``runs_by``: the digest of the text it was added with; None from a supervisord that an earlier version started.
    """

    name: str
    state: str
    pid: int | None
    started: int
    stopped: int
    exit_status: int
    error: str
    runs_by: str | None = None


class ShuttingDown(PortfleetError):
    """supervisord is there and takes no orders any more."""

    def __init__(self) -> None:
        super().__init__("supervisord is shutting down", hint="when it has ended: portfleet up")


class Unreadable(PortfleetError):
    """supervisord cannot read its config, or the file of some program: it is asked about none then."""


class Unanswered(PortfleetError):
    """supervisord listens and does not answer: it hangs, or was stopped by a signal."""


class Supervisor:
    """A running supervisord. Methods raise PortfleetError when it does not answer, or refuses what is asked.

    An answer is waited for as long as ``seconds``, and longer while supervisord waits for a processor (`Patience`);
    then Unanswered is raised, and taken for absence by none of them.
    """

    def __init__(self, path: Path, *, seconds: float = 30.0) -> None:
        self._path, self._seconds = path, seconds

    def _ask(self, method: str, *arguments: str | int | bool, interface: str = "supervisor") -> Any:
        """Call a method; raises RpcFault for what it refuses by itself."""
        patience = Patience(self._seconds, self._process())
        try:
            return rpc.call(
                self._path,
                f"{interface}.{method}",
                *arguments,
                seconds=self._seconds,
                goes_on=patience.goes_on,
            )
        except rpc.RpcTimeoutError as error:
            raise Unanswered(f"supervisord: {error}", hint="see why, and what to do: portfleet status") from None
        except rpc.RpcError as error:
            raise PortfleetError(
                f"supervisord does not answer on {self._path}: {error}", hint="start it with: portfleet up"
            ) from None
        except rpc.RpcFault as fault:
            if fault.code == SHUTDOWN_STATE:
                raise ShuttingDown from None
            raise

    def _process(self) -> int | None:
        """Return supervisord's process by its pid file, which is beside its socket."""
        try:
            return int(self._path.with_name("supervisord.pid").read_text())
        except (OSError, ValueError):
            return None

    def _call(self, method: str, *arguments: str | int | bool) -> Any:
        """Call a method of which no refusal is expected."""
        try:
            return self._ask(method, *arguments)
        except rpc.RpcFault as fault:
            raise PortfleetError(f"supervisord: {method}: {fault.words}") from None

    def running(self) -> bool:
        """Return whether it answers and takes orders; raise Unanswered if it is there and does neither."""
        try:
            self._call("getState")
        except Unanswered:
            raise
        except PortfleetError:
            return False
        return True

    def ending(self) -> bool:
        """Return whether it shuts down: its programs may be there yet, but it says nothing about them."""
        try:
            self._call("getState")
        except ShuttingDown:
            return True
        except Unanswered:
            raise
        except PortfleetError:
            return False
        return False

    def refuse_ending(self) -> None:
        """Raise ShuttingDown while it shuts down: then nothing can be begun, nor another one started."""
        if self.ending():
            raise ShuttingDown

    def pid(self) -> int:
        """Return supervisord's process."""
        return int(self._call("getPID"))

    def programs(self) -> dict[str, ProgramInfo]:
        """Return every program by name."""
        return {
            info["name"]: ProgramInfo(
                info["name"],
                info["statename"],
                info["pid"] or None,
                info["start"],
                info["stop"],
                info["exitstatus"],
                info["spawnerr"],
                info.get("runs_by"),
            )
            for info in self._all()
        }

    def _all(self) -> list[dict[str, Any]]:
        try:
            return list(json.loads(self._ask("programs", interface="portfleet")))
        except rpc.RpcFault as fault:
            if fault.code != UNKNOWN_METHOD:
                raise PortfleetError(f"supervisord: programs: {fault.words}") from None
        return list(self._call("getAllProcessInfo"))  # it was started by an earlier version and runs on

    def reload(self) -> tuple[set[str], set[str], set[str]]:
        """Have it read its files again; gives (added, changed, removed) programs. Nothing is started or stopped.

        Raise Unreadable if one of them is damaged.
        """
        try:
            added, changed, removed = self._ask("reloadConfig")[0]
        except rpc.RpcFault as fault:
            hint = "portfleet apply writes its files anew"
            raise Unreadable(
                f"supervisord cannot read its config: {fault.words.partition(' in value')[0]}", hint=hint
            ) from None
        return set(added), set(changed), set(removed)

    def start(self, *names: str) -> dict[str, str]:
        """Start programs, adding those that supervisord does not know yet; "already" is success.

        Return why, by name, of those whose command cannot be executed. The others are started: also those for which
        there is no process at the moment (fork(2), EAGAIN), as supervisord tries that again by itself.
        """
        self._each(*(("addProcessGroup", name) for name in names), accept={ALREADY_ADDED})
        starts = [("startProcess", name, False) for name in names]
        faults = self._each(*starts, accept={ALREADY_STARTED, SPAWN_ERROR, NO_FILE, NOT_EXECUTABLE})
        found = zip(names, faults, strict=True)
        return {name: _words(name, one) for name, one in found if one and one.code in (NO_FILE, NOT_EXECUTABLE)}

    def stop(self, *names: str) -> None:
        """Ask programs to stop, without waiting; those that have stopped are fine."""
        self._each(*(("stopProcess", name, False) for name in names), accept={NOT_RUNNING, BAD_NAME})

    def remove(self, *names: str) -> set[str]:
        """Forget programs; return those that it does not know any more, which are all whose processes have ended."""
        faults = self._each(*(("removeProcessGroup", name) for name in names), accept={STILL_RUNNING, BAD_NAME})
        return {name for name, fault in zip(names, faults, strict=True) if not fault or fault.code != STILL_RUNNING}

    def signal(self, signal: str, *names: str) -> None:
        """Send a signal such as "TERM" to the processes of programs; those that have ended are fine."""
        self._each(*(("signalProcess", name, signal) for name in names), accept={NOT_RUNNING, BAD_NAME})

    def nudge(self) -> None:
        """Make it reap and restart dead children now instead of at its next poll."""
        self._call("getState")

    def shutdown(self) -> None:
        """Have it stop every program and end."""
        self._call("shutdown")

    def _each(self, *calls: tuple[str | bool, ...], accept: Collection[int]) -> list[rpc.RpcFault | None]:
        """Call methods, each with the program's name as its first argument, and return their faults, in order.

        Only those that are of use to ``accept`` are returned; others raise PortfleetError.
        """
        found: list[rpc.RpcFault | None] = []
        while left := calls[len(found) : len(found) + _AT_ONCE]:
            for call, fault in zip(left, done := self._some(left), strict=False):
                if fault is not None and fault.code not in accept:
                    raise PortfleetError(_words(str(call[1]), fault))
            found += done
        return found

    def _some(self, calls: Sequence[tuple[str | bool, ...]]) -> list[rpc.RpcFault | None]:
        """Call the first of some methods, as many as supervisord does at a time."""
        try:
            done = json.loads(self._ask("each", json.dumps(calls), interface="portfleet"))
        except rpc.RpcFault as fault:
            if fault.code != UNKNOWN_METHOD:
                raise PortfleetError(f"supervisord: {fault.words}") from None
            return [self._one(*calls[0])]  # it was started by an earlier version and runs on
        return [None if fault is None else rpc.RpcFault(*fault) for fault in done]

    def _one(self, method: str | bool, *arguments: str | bool) -> rpc.RpcFault | None:
        try:
            self._ask(str(method), *arguments)
        except rpc.RpcFault as fault:
            return fault
        return None


def _words(name: str, fault: rpc.RpcFault) -> str:
    return f"supervisord: {name}: {fault.words}"
